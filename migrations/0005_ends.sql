-- How a job's row leaves for a day, and how the row comes back.
--
-- pushq.end_jobs() ends every job: for outcomes, cancels and third crashes. The row is deleted from the small partition and
-- inserted into a day. An UPDATE that moved the row would raise an error in sessions that wait for the row's lock. After a
-- DELETE such sessions find no row, and change nothing.

insert into pushq.migrations (version, name) values (5, '0005_ends');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 5;

-- The columns that a job keeps when its row moves, listed only here. A new column of pushq.jobs is added to one of two lists.
do $do$
declare
    -- The producer's columns, except run_at.
    asked text := 'id, task, payload, queue, priority, max_attempts, timeout, unique_key, tenant_id, correlation_id, submitted_by';
    -- The columns of pushq that an end does not change.
    past text := 'attempt, enqueued_at, supervisor';
    function text;
begin
    -- Ends jobs, each under its token. A null token: a person ends the job by hand, whoever holds the job, and the row's error
    -- stays. kinds: succeeded, failed, cancelled; or crashed, which charges a crash and ends the job as failed. began, ended:
    -- how many seconds ago the attempt began and ended; null: when the row says, and now. The worker measures the run, because
    -- the server's clock may have been set meanwhile. An array of kinds, errors, tracebacks or results may be empty if it holds
    -- only defaults: succeeded, null, null, null.
    --
    -- Returns the places in ids, from 1, of the jobs that ended, or null if all ended. Not ids, since one batch may hold
    -- outcomes of two claims of one job. Rows are locked in the order of ids, so that overlapping batches do not deadlock.
    function := $function$
create function pushq.end_jobs(
    ids uuid[], tokens uuid[], began float8[], ended float8[], kinds text[], errors text[], tracebacks text[], results text[])
returns int[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    places int[];
begin
    with outcome as (
        select
            given.id, given.token, given.began, given.ended, coalesce(given.kind, 'succeeded') as kind, given.error,
            given.traceback, given.result, given.place::int
        from unnest(
            end_jobs.ids, end_jobs.tokens, end_jobs.began, end_jobs.ended, end_jobs.kinds, end_jobs.errors,
            end_jobs.tracebacks, end_jobs.results
        ) with ordinality as given (id, token, began, ended, kind, error, traceback, result, place)
        order by given.id
    ),
    finished as (
        delete from pushq.jobs_unfinished as job
        using outcome
        where job.id = outcome.id and (job.token = outcome.token or outcome.token is null)
        returning  -- qualified, since a user's own column may have the same name
            {job.asked}, {job.past}, job.run_at, job.failures, job.crashes, job.pool, outcome.place, outcome.kind,
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
    select case when count(*) < cardinality(end_jobs.ids) then coalesce(array_agg(finished.place), '{}') end
    into places
    from finished;
    return places;
end
$$
$function$;
    execute replace(replace(replace(replace(function,
        '{job.asked}', regexp_replace(asked, '(\w+)', 'job.\1', 'g')), '{job.past}', regexp_replace(past, '(\w+)', 'job.\1', 'g')),
        '{asked}', asked), '{past}', past);

    -- Brings a finished job back from its day: due at once, with failures and crashes at 0. Of several jobs with the id, brings
    -- back the job that finished last. Returns whether there was such a job.
    function := $function$
create function pushq.bring_back(id uuid) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    with removed as (
        delete from pushq.jobs as job
        where job.id = bring_back.id
        and (job.finished_on, job.finished_at) = (
            select newest.finished_on, newest.finished_at
            from pushq.jobs as newest
            where newest.id = bring_back.id and newest.finished_on < 'infinity'
            order by newest.finished_at desc
            limit 1)
        returning {job.asked}, {job.past}, job.started_at, job.error, job.traceback
    )
    insert into pushq.jobs ({asked}, {past}, run_at, started_at, error, traceback)
    select {removed.asked}, {removed.past}, clock_timestamp(), removed.started_at, removed.error, removed.traceback
    from removed;
    return found;
end
$$
$function$;
    execute replace(replace(replace(replace(replace(replace(function,
        '{job.asked}', regexp_replace(asked, '(\w+)', 'job.\1', 'g')), '{job.past}', regexp_replace(past, '(\w+)', 'job.\1', 'g')),
        '{removed.asked}', regexp_replace(asked, '(\w+)', 'removed.\1', 'g')),
        '{removed.past}', regexp_replace(past, '(\w+)', 'removed.\1', 'g')),
        '{asked}', asked), '{past}', past);
end
$do$;
