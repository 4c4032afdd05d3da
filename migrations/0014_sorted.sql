-- Batches that find their jobs by the index, whatever the planner believes of the table.
--
-- The table of unfinished jobs empties and fills within seconds. A vacuum of the empty table notes that the table has no rows, and
-- until the next ANALYZE a join with the batch may read the whole table: for 100,000 jobs, a second a batch. So a batch is not
-- joined. Its ids ascend, a job is found by `id = any(ids)`, and the job's place in the batch is width_bucket(id, ids), a binary
-- search. No id stands twice in a batch.
--
-- Supervisors that have run since before this migration call the older functions.

insert into pushq.migrations (version, name) values (14, '0014_sorted');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 14;

do $do$
declare
    -- As in 0005_ends. waiters are in neither list: a finished job has none.
    asked text := 'id, task, payload, queue, priority, max_attempts, timeout, unique_key, tenant_id, correlation_id, submitted_by';
    past text := 'attempt, enqueued_at, supervisor, progress';
    function text;
begin
    -- Ends jobs, each under its token. A null token: a person ends the job by hand, whoever holds the job, and the row's error
    -- stays. kinds: succeeded, failed, cancelled; or crashed, which charges a crash and ends the job as failed. began, ended:
    -- how many seconds ago the attempt began and ended; null: when the row says, and now. The worker measures the run, because
    -- the server's clock may have been set meanwhile. An array of kinds, errors, tracebacks or results may be empty if it holds
    -- only defaults: succeeded, null, null, null.
    --
    -- Returns, in places, the places in ids, from 1, of the jobs that ended, or null if all ended; in told, what is to be told to
    -- those that wait for the jobs, as pushq.tell() takes it, or null. Rows are locked in the order of ids, so that overlapping
    -- batches do not deadlock.
    function := $function$
create function pushq.end_sorted(
    ids uuid[], tokens uuid[], began float8[], ended float8[], kinds text[], errors text[], tracebacks text[], results text[],
    out places int[], out told text[])
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    arrived timestamptz := clock_timestamp();
begin
    with finished as (
        delete from pushq.jobs_unfinished as job
        where job.id = any(end_sorted.ids)
        and job.token
            is not distinct from coalesce(end_sorted.tokens[width_bucket(job.id, end_sorted.ids)], job.token)
        returning  -- qualified, since a user's own column may have the same name
            {job.asked}, {job.past}, job.waiters, job.run_at, job.failures, job.crashes, job.pool, job.token, job.started_at,
            job.error, job.traceback, width_bucket(job.id, end_sorted.ids) as place
    ),
    attempt as not materialized (
        select
            finished.*,
            coalesce(end_sorted.kinds[finished.place], 'succeeded') as kind,
            end_sorted.tokens[finished.place] is null as is_by_hand,
            greatest(
                arrived - end_sorted.began[finished.place] * interval '1 second', finished.started_at) as began_at,
            case
                when end_sorted.ended[finished.place] is null
                    then greatest(arrived, finished.started_at) - finished.started_at
                else (end_sorted.began[finished.place] - end_sorted.ended[finished.place]) * interval '1 second'
            end as ran
        from finished
    ),
    kept as (
        insert into pushq.jobs (
            {asked}, {past}, run_at, status, failures, crashes, pool, token, started_at, finished_at, error, traceback,
            result, finished_on)
        select
            {asked}, {past}, run_at, case when kind = 'crashed' then 'failed' else kind end,
            failures + (kind = 'failed')::int, crashes + (kind = 'crashed')::int, pool,
            case when kind <> 'crashed' and not is_by_hand then token end, began_at, coalesce(began_at + ran, clock_timestamp()),
            case when is_by_hand then error else end_sorted.errors[place] end,
            case when is_by_hand then traceback else end_sorted.tracebacks[place] end,
            end_sorted.results[place]::jsonb, (select pushq.current_day())
        from attempt
    ),
    tallied as (
        insert into pushq.tally_log (queue, task, outcome, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds)
        select
            case when has_label then queue else '_other' end, case when has_label then task else '_other' end,
            kind, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds
        from (
            -- Without a token, a person ends jobs in a transaction that may stay open: no label is given, since others would
            -- wait.
            select tally.*, label.task is not null or is_attempt and pushq.label(tally.queue, tally.task) as has_label
            from (
                select
                    queue, task, kind, is_attempt,
                    pushq.bucket(ran, pushq.run_bounds()) as run_bucket,
                    pushq.bucket(waited, pushq.wait_bounds()) as wait_bucket,
                    count(*) as jobs,
                    coalesce(extract(epoch from sum(ran)), 0) as run_seconds,
                    coalesce(extract(epoch from sum(waited)), 0) as wait_seconds
                from (
                    select
                        queue, task, case when kind = 'crashed' then 'failed' else kind end as kind,
                        not is_by_hand as is_attempt,
                        case when not is_by_hand then ran end as ran,
                        case when not is_by_hand then pushq.waited(run_at, enqueued_at, began_at) end as waited
                    from attempt
                ) as one
                group by queue, task, kind, is_attempt, run_bucket, wait_bucket
            ) as tally
            left join pushq.labels as label on label.queue = tally.queue and label.task = tally.task
            offset 0  -- label() once a row
        ) as labelled
    )
    select
        case when count(*) < cardinality(end_sorted.ids) then coalesce(array_agg(finished.place), '{}') end,
        array_agg(
            finished.id || ' ' || case coalesce(end_sorted.kinds[finished.place], 'succeeded')
                when 'crashed' then 'failed' else coalesce(end_sorted.kinds[finished.place], 'succeeded') end || ' '
            || array_to_string(finished.waiters, ' ')
        ) filter (where finished.waiters is not null)
    into places, told
    from finished;
end
$$
$function$;
    execute replace(replace(replace(replace(function,
        '{job.asked}', regexp_replace(asked, '(\w+)', 'job.\1', 'g')), '{job.past}', regexp_replace(past, '(\w+)', 'job.\1', 'g')),
        '{asked}', asked), '{past}', past);
end
$do$;

-- As in 0013_events.
create or replace function pushq.give_back(
    ids uuid[], tokens uuid[], kinds text[], delays float8[], errors text[], tracebacks text[])
returns int[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    places int[];
    cancelling uuid[];
begin
    with going_on as (
        update pushq.jobs_unfinished as job
        set status = 'queued',
            token = null,
            run_at = case
                when give_back.kinds[array_position(give_back.ids, job.id)] = 'released' then job.run_at
                else clock_timestamp() + give_back.delays[array_position(give_back.ids, job.id)] * interval '1 second' end,
            failures = job.failures + (give_back.kinds[array_position(give_back.ids, job.id)] = 'retried')::int,
            error = coalesce(give_back.errors[array_position(give_back.ids, job.id)], job.error),
            traceback = case
                when give_back.errors[array_position(give_back.ids, job.id)] is null then job.traceback
                else give_back.tracebacks[array_position(give_back.ids, job.id)] end
        where job.id = any(give_back.ids) and job.token = give_back.tokens[array_position(give_back.ids, job.id)]
        returning
            array_position(give_back.ids, job.id) as place, job.id, job.queue, job.task, job.tenant_id, job.attempt,
            job.supervisor, job.apart, give_back.kinds[array_position(give_back.ids, job.id)] as kind
    ),
    tallied as (
        select pushq.tally_back('retried', array_agg(going_on.queue), array_agg(going_on.task))
        from going_on
        where going_on.kind in ('retried', 'snoozed')
    ),
    rung as (
        select pushq.ring_if_idle(touched.queue)
        from (select distinct going_on.queue from going_on) as touched
    ),
    noted as (
        select pushq.note_changes(
            null, '{}', array_agg(going_on.id), array_agg(going_on.tenant_id), array_agg(going_on.attempt), '{}',
            array_agg(going_on.kind), array_agg(give_back.delays[going_on.place]),
            array_agg(give_back.errors[going_on.place]), array_agg(give_back.tracebacks[going_on.place]),
            min(going_on.supervisor))
        from going_on
        where going_on.kind = 'retried' or going_on.queue = any(pushq.queues_with_all_events())
        having count(*) > 0
    )
    select
        case when count(*) < cardinality(give_back.ids) then coalesce(array_agg(going_on.place), '{}') end,
        array_agg(going_on.id order by going_on.id) filter (where going_on.apart = 'cancelling')
    into places, cancelling
    from going_on
    cross join (select count(*) from tallied) as tallying
    cross join (select count(*) from rung) as ringing
    cross join (select count(*) from noted) as noting;
    if cancelling is not null then
        perform pushq.end_jobs(
            cancelling, array_fill(null::uuid, array[cardinality(cancelling)]), null, null,
            array_fill('cancelled'::text, array[cardinality(cancelling)]), null, null, null);
    end if;
    return places;
end
$$;

-- As in 0013_events. The ids ascend.
create or replace function pushq.end_jobs(
    ids uuid[], tokens uuid[], began float8[], ended float8[], kinds text[], errors text[], tracebacks text[], results text[])
returns int[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    before record;
    end_of_all record;
begin
    select
        array_agg(job.tenant_id order by given.place) as tenants,
        array_agg(job.attempt order by given.place) as attempts,
        array_agg(job.status order by given.place) as statuses,
        array_agg(case given.kind when 'crashed' then 'failed' else given.kind end order by given.place) as kinds,
        array_agg(
            coalesce(given.kind, 'succeeded') <> 'succeeded' or job.queue = any(pushq.queues_with_all_events())
            order by given.place) as noted,
        min(job.supervisor) as supervisor
    into before
    from unnest(end_jobs.ids, end_jobs.kinds) with ordinality as given (id, kind, place)
    left join lateral (
        select its.tenant_id, its.attempt, its.status, its.queue, its.supervisor
        from pushq.jobs_unfinished as its
        where its.id = given.id
        offset 0
    ) as job on true;

    end_of_all := pushq.end_sorted(
        end_jobs.ids, end_jobs.tokens, end_jobs.began, end_jobs.ended, end_jobs.kinds, end_jobs.errors, end_jobs.tracebacks,
        end_jobs.results);
    perform pushq.note_changes(
        end_of_all.places, before.noted, end_jobs.ids, before.tenants, before.attempts, before.statuses, before.kinds, null,
        end_jobs.errors, end_jobs.tracebacks,
        case when end_jobs.tokens[1] is null or 'crashed' = any(end_jobs.kinds) then pushq.actor() else before.supervisor end);
    perform pushq.tell(end_of_all.told);
    return end_of_all.places;
end
$$;

-- As in 0013_events.
create or replace function pushq.note_phases(ids uuid[], tokens uuid[], phases text[]) returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into pushq.job_events (job_id, tenant_id, kind, was, became, attempt, actor, detail)
    select
        given.id, job.tenant_id, 'phase', job.status, job.status, job.attempt, job.supervisor,
        jsonb_build_object('phase', given.phase)
    from unnest(note_phases.ids, note_phases.tokens, note_phases.phases) with ordinality as given (id, token, phase, place)
    cross join lateral (
        select its.tenant_id, its.status, its.attempt, its.supervisor
        from pushq.jobs_unfinished as its
        where its.id = given.id and its.token = given.token
        offset 0
    ) as job
    order by given.place;
end
$$;

-- As in 0009_guests.
create or replace function pushq.detach(ids uuid[], tokens uuid[], leases float8[]) returns int[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    guests text[];
    accepted int[];
begin
    -- Before the jobs are locked. A guest that is there already, after a lost reply, is left alone.
    with hosted as (
        insert into pushq.supervisors as host (name, host, pid, lease, lease_until, tasks, queues)
        select
            'guest:' || wish.id, 'guest', 0, wish.lease * interval '1 second',
            clock_timestamp() + wish.lease * interval '1 second', array[job.task], array[job.queue]
        from unnest(detach.ids, detach.tokens, detach.leases) as wish (id, token, lease)
        cross join lateral (
            select its.task, its.queue
            from pushq.jobs_unfinished as its
            where its.id = wish.id and its.token = wish.token
            offset 0
        ) as job
        order by wish.id
        on conflict on constraint supervisors_pkey do nothing
        returning host.name
    )
    select array_agg(hosted.name) into guests from hosted;

    with detached as (
        update pushq.jobs_unfinished as job
        set supervisor = 'guest:' || job.id, pool = 0
        where job.id = any(detach.ids) and job.token = detach.tokens[array_position(detach.ids, job.id)]
        returning array_position(detach.ids, job.id) as place
    )
    select coalesce(array_agg(detached.place), '{}') into accepted from detached;

    if cardinality(accepted) = cardinality(detach.ids) then
        return null;
    end if;
    perform pushq.dismiss_guest(guest) from unnest(guests) as guest;
    return accepted;
end
$$;

-- pushq.delete_tenant(), as in 0013_events but for its one join.
do $$
begin
    execute replace(
        pg_get_functiondef('pushq.delete_tenant(text, int)'::regprocedure),
        'using going where job.id = going.id', 'where job.id = any(array(select going.id from going))');
end
$$;
