-- Moves the rows of the old table into pushq.jobs, after schema.sql. Rows that were interrupted are queued. Finished rows keep
-- their status, times, error and summary; their time in pushq.jobs, as PUSHQ_RETENTION says, begins now. May be run again.
--
-- A row stays in graphiti_jobs_before_pushq if pushq has a job with its id, or if the row waits and pushq would refuse its
-- submitted_by (over 200 characters). Bodies that are no object, or over 1 MiB, go to graphiti_bodies.

do $$
declare
    stay bigint;
begin
    if to_regclass('graphiti_jobs_before_pushq') is null then
        return;
    end if;

    -- To queue them, all at once: the view and the pools see none of them before the end.
    with moved as (
        delete from graphiti_jobs_before_pushq as was
        where status in ('queued', 'running')
        and length(coalesce(submitted_by, '')) <= 200
        and not exists (select from pushq.jobs where id = was.job_id)
        returning *, case when jsonb_typeof(payload) = 'object' then pg_column_size(payload || '{}') > 1048576 else true end as is_kept
    ),
    kept as (
        insert into graphiti_bodies select job_id, payload from moved where is_kept
        on conflict (job_id) do update set body = excluded.body
    )
    insert into pushq.jobs (id, task, queue, payload, enqueued_at, run_at, submitted_by)
    select
        job_id, 'ingest.' || job_type, 'ingest', case when is_kept then '{"graphiti_body": true}' else payload end, enqueued_at, least(enqueued_at, now()),
        coalesce(nullif(submitted_by, ''), ' ')
    from moved
    order by enqueued_at;

    -- Not into the days on which the jobs ended: days before pushq's first do not exist, and old days soon leave.
    with moved as (
        delete from graphiti_jobs_before_pushq as was
        where status in ('committed', 'failed') and not exists (select from pushq.jobs where id = was.job_id)
        returning *
    )
    insert into pushq.jobs (
        id, task, queue, payload, enqueued_at, run_at, submitted_by, status, attempt, failures, started_at, finished_at, error,
        result, finished_on)
    select
        job_id, 'ingest.' || job_type, 'ingest', payload, enqueued_at, enqueued_at, coalesce(submitted_by, ' '),
        case status when 'committed' then 'succeeded' else 'failed' end, 1, (status = 'failed')::int, started_at,
        coalesce(finished_at, started_at, enqueued_at), error, summary, pushq.current_day()
    from moved
    order by finished_at;

    select count(*) into stay from graphiti_jobs_before_pushq;
    if stay > 0 then
        raise notice '% rows stay in graphiti_jobs_before_pushq: see the head of move.sql', stay;
    end if;
end
$$;
