-- Waiting for the end of a job without polling.
--
-- Whoever waits writes a channel into the job's row: with the INSERT, or by pushq.watch(). The row's lock decides between a waiter
-- that comes and a job that ends: either the finish sees the channel, or the waiter finds no unfinished row, and looks. A channel
-- is named at random, and to know the name is the right to hear. What is told is "ID STATUS".
--
-- A commit that notifies takes a lock of the whole cluster, and holds the lock while the commit waits for the disk. So a pool
-- tells after the commit of its outcomes, in a commit of its own that waits for no disk. All other ends of jobs tell at once.

insert into pushq.migrations (version, name) values (11, '0011_waiting');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 11;

create function pushq.are_channels(names text[]) returns boolean
language sql immutable parallel safe
return case
    when cardinality(names) between 1 and 16 then (
        select bool_and(coalesce(channel.name ~ '^pushq_[0-9a-z_]{1,57}$', false)) from unnest(names) as channel (name))
    else false
end;

-- As in 0001_jobs, and the rule for waiters.
create or replace function pushq.check_job() returns trigger
language plpgsql
as $$
declare
    broken_rule pg_catalog.text := pushq.broken_rule(
        new.task, new.payload, new.queue, new.run_at, new.max_attempts, new.timeout, new.unique_key, new.tenant_id,
        new.correlation_id, new.submitted_by, new.status, new.attempt, new.failures, new.crashes, new.started_at,
        new.finished_at, new.finished_on, new.supervisor, new.pool, new.token);
begin
    if new.waiters is not null and not pushq.are_channels(new.waiters) then
        broken_rule := 'jobs_waiters_are_1_to_16_channels';
    end if;
    if broken_rule is not null then
        perform pushq.refuse_job(broken_rule);
    end if;
    if new.payload_is_too_long is not null or pushq.may_have_long_numbers(new.payload) then
        new.payload_is_too_long := pushq.is_too_long(new.payload);
    end if;
    return new;
end
$$;

-- Tells what pushq.end_quietly() returned: each text is a job's id, its status and its channels, with blanks between. Names that are
-- no channels are passed over, since a row may have been changed by hand. Not told while the cluster's notification queue is half full, or if the
-- transaction has set pushq.notify = 'off': waiters look again.
create function pushq.tell(told text[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if tell.told is not null and pg_notification_queue_usage() < 0.5
        and coalesce(current_setting('pushq.notify', true) <> 'off', true) then
        perform pg_notify(channel, split_part(one, ' ', 1) || ' ' || split_part(one, ' ', 2))
        from unnest(tell.told) as one
        cross join regexp_split_to_table(one, ' ') as channel
        where channel ~ '^pushq_[0-9a-z_]{1,57}$';
    end if;
end
$$;

do $do$
declare
    -- As in 0005_ends. waiters are in neither list: a finished job has none.
    asked text := 'id, task, payload, queue, priority, max_attempts, timeout, unique_key, tenant_id, correlation_id, submitted_by';
    past text := 'attempt, enqueued_at, supervisor';
    function text;
begin
    -- Ends jobs, each under its token. A null token: a person ends the job by hand, whoever holds the job, and the row's error
    -- stays. kinds: succeeded, failed, cancelled; or crashed, which charges a crash and ends the job as failed. began, ended:
    -- how many seconds ago the attempt began and ended; null: when the row says, and now. The worker measures the run, because
    -- the server's clock may have been set meanwhile. An array of kinds, errors, tracebacks or results may be empty if it holds
    -- only defaults: succeeded, null, null, null.
    --
    -- Returns, in places, the places in ids, from 1, of the jobs that ended, or null if all ended; in told, what is to be told to
    -- those that wait for the jobs, as pushq.tell() takes it, or null. Not ids, since one batch may hold
    -- outcomes of two claims of one job. Rows are locked in the order of ids, so that overlapping batches do not deadlock.
    function := $function$
create function pushq.end_quietly(
    ids uuid[], tokens uuid[], began float8[], ended float8[], kinds text[], errors text[], tracebacks text[], results text[],
    out places int[], out told text[])
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    with outcome as (
        select
            given.id, given.token, given.began, given.ended, coalesce(given.kind, 'succeeded') as kind, given.error,
            given.traceback, given.result, given.place::int
        from unnest(
            end_quietly.ids, end_quietly.tokens, end_quietly.began, end_quietly.ended, end_quietly.kinds, end_quietly.errors,
            end_quietly.tracebacks, end_quietly.results
        ) with ordinality as given (id, token, began, ended, kind, error, traceback, result, place)
        order by given.id
    ),
    finished as (
        delete from pushq.jobs_unfinished as job
        using outcome
        where job.id = outcome.id and (job.token = outcome.token or outcome.token is null)
        returning  -- qualified, since a user's own column may have the same name
            {job.asked}, {job.past}, job.waiters, job.run_at, job.failures, job.crashes, job.pool, outcome.place, outcome.kind,
            outcome.result as returned, case when outcome.token is not null then job.token end as token,
            case when outcome.token is null then job.error else outcome.error end as last_error,
            case when outcome.token is null then job.traceback else outcome.traceback end as last_traceback,
            greatest(clock_timestamp() - outcome.began * interval '1 second', job.started_at) as began_at,
            case when outcome.ended is null then greatest(clock_timestamp(), job.started_at) - job.started_at
            else (outcome.began - outcome.ended) * interval '1 second' end as ran
    ),
    kept as (
        insert into pushq.jobs (
            {asked}, {past}, run_at, status, failures, crashes, pool, token, started_at, finished_at, error, traceback,
            result, finished_on)
        select
            {asked}, {past}, run_at, case when kind = 'crashed' then 'failed' else kind end,
            failures + (kind = 'failed')::int, crashes + (kind = 'crashed')::int, pool,
            case when kind <> 'crashed' then token end, began_at, coalesce(began_at + ran, clock_timestamp()), last_error,
            last_traceback, returned::jsonb, (select pushq.current_day())
        from finished
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
                        token is not null as is_attempt,
                        case when token is not null then ran end as ran,
                        case when token is not null then pushq.waited(run_at, enqueued_at, began_at) end as waited
                    from finished
                ) as attempt
                group by queue, task, kind, is_attempt, run_bucket, wait_bucket
            ) as tally
            left join pushq.labels as label on label.queue = tally.queue and label.task = tally.task
            offset 0  -- label() once a row
        ) as labelled
    )
    select
        case when count(*) < cardinality(end_quietly.ids) then coalesce(array_agg(finished.place), '{}') end,
        array_agg(
            finished.id || ' ' || case when finished.kind = 'crashed' then 'failed' else finished.kind end || ' '
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

-- The same, and tells at once: for all ends but a pool's outcomes.
create or replace function pushq.end_jobs(
    ids uuid[], tokens uuid[], began float8[], ended float8[], kinds text[], errors text[], tracebacks text[], results text[])
returns int[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    end_of_all record := pushq.end_quietly(
        end_jobs.ids, end_jobs.tokens, end_jobs.began, end_jobs.ended, end_jobs.kinds, end_jobs.errors, end_jobs.tracebacks,
        end_jobs.results);
begin
    perform pushq.tell(end_of_all.told);
    return end_of_all.places;
end
$$;

-- Asks that the channel be notified when the job ends. Returns false if there is nothing to wait for, or no room: the job is
-- finished or unknown, or has sixteen channels. Then look at the row. Raises invalid_parameter_value for what is no channel.
create function pushq.watch(id uuid, channel text) returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if not coalesce(pushq.are_channels(array[watch.channel]), false) then
        raise invalid_parameter_value using message = format(
            'pushq.watch: %L is no channel; make one of pushq_ and up to 57 of a-z, 0-9, _', watch.channel);
    end if;
    update pushq.jobs_unfinished as job
    set waiters = array_append(waiters, watch.channel)
    where job.id = watch.id and pushq.may_touch(job.tenant_id)
    and (waiters is null or watch.channel <> all(waiters) and cardinality(waiters) < 16);
    return found or exists (
        select from pushq.jobs_unfinished as job
        where job.id = watch.id and watch.channel = any(waiters) and pushq.may_touch(job.tenant_id));
end
$$;

-- Takes the wish back.
create function pushq.unwatch(id uuid, channel text) returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    update pushq.jobs_unfinished as job
    set waiters = nullif(array_remove(waiters, unwatch.channel), '{}')
    where job.id = unwatch.id and unwatch.channel = any(waiters) and pushq.may_touch(job.tenant_id);
end
$$;
revoke execute on function pushq.watch(uuid, text), pushq.unwatch(uuid, text) from public;

create or replace function pushq.grant_to_tenants() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if has_schema_privilege('pushq', 'usage with grant option') then
        grant usage on schema pushq to pushq_tenant;
    end if;
    grant
        select (
            id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
            submitted_by, status, attempt, failures, crashes, enqueued_at, started_at, finished_at, error, traceback, result,
            finished_on),
        insert (
            id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
            submitted_by, waiters)
        on pushq.jobs to pushq_tenant;
    grant execute on function
        pushq.tenant(), pushq.tenant_of(name), pushq.uuidv7(), pushq.broken_rule, pushq.refuse_job(text),
        pushq.may_have_long_numbers(jsonb), pushq.is_too_long(jsonb), pushq.gate_clock(), pushq.ring_bell(text),
        pushq.schema_version(), pushq.cancel(uuid, text), pushq.retry(uuid, text), pushq.reprioritize(uuid, int),
        pushq.reschedule(uuid, timestamptz), pushq.are_channels(text[]), pushq.watch(uuid, text), pushq.unwatch(uuid, text)
        to pushq_tenant;
    grant select on pushq.migrations to pushq_tenant;
end
$$;
do $$
begin
    if pushq.is_separated() and to_regrole('pushq_tenant') is not null then
        perform pushq.grant_to_tenants();
    end if;
end
$$;
