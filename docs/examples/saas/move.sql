-- Moves the rows of job_queue_before_pushq into pushq.jobs, whatever their status. Run this after schema.sql, as the owner, while no
-- old worker runs. May be run again, and then moves what is left.
--
-- What was being processed is queued: nobody works on it any more. Finished rows go to the day that takes finished jobs now, with
-- their own instants, since the days of their ends may be over. So they stay for PUSHQ_RETENTION from the move on.

begin;

do $$
declare
    is_forced boolean;
    moved bigint := 0;
    more bigint;
    left_over bigint;
begin
    if to_regclass('job_queue_before_pushq') is null then
        raise notice 'there is no job_queue_before_pushq: nothing to move';
        return;
    end if;
    lock table job_queue_before_pushq in access exclusive mode;
    -- Policies that bind the owner as well would hide rows.
    select relforcerowsecurity into is_forced from pg_class where oid = 'job_queue_before_pushq'::regclass;
    alter table job_queue_before_pushq no force row level security;

    -- A row that a worker could not run, for its payload is no object, or too large, stays. So does one whose id is taken.
    with moved as (
        insert into pushq.jobs (
            id, task, payload, queue, run_at, tenant_id, attempt, failures, enqueued_at, supervisor, result)
        select
            id, type, payload, 'job_queue', least(coalesce(next_retry_at, created_at), '9998-12-31 00:00:00+00'),
            tenant_id::text, greatest(attempts, 0), greatest(attempts, 0), created_at, 'guest:' || worker_id, result
        from job_queue_before_pushq as old
        where status in ('pending', 'processing')
        and jsonb_typeof(payload) = 'object' and pg_column_size(payload || '{}') <= 1048576 and length(type) between 1 and 200
        and not exists (
            select from pushq.jobs as job where job.id = old.id and job.queue = 'job_queue' and job.finished_on < 'infinity')
        order by created_at
        on conflict do nothing
        returning id
    )
    delete from job_queue_before_pushq as old using moved where old.id = moved.id;
    get diagnostics moved = row_count;

    with moved as (
        insert into pushq.jobs (
            id, task, payload, queue, run_at, tenant_id, status, attempt, failures, enqueued_at, supervisor, result, error,
            started_at, finished_at, finished_on)
        select
            id, type, payload, 'job_queue', coalesce(next_retry_at, created_at),
            tenant_id::text, case status when 'completed' then 'succeeded' else 'failed' end, attempts, attempts, created_at,
            'guest:' || worker_id, result, case status when 'failed' then 'failed before the move' end,
            completed_at, coalesce(completed_at, created_at), pushq.current_day()
        from job_queue_before_pushq as old
        where status in ('completed', 'failed')
        and not exists (select from pushq.jobs as job where job.id = old.id and job.queue = 'job_queue')
        returning id
    )
    delete from job_queue_before_pushq as old using moved where old.id = moved.id;
    get diagnostics more = row_count;

    select count(*) into left_over from job_queue_before_pushq;
    raise notice '% rows have moved, % finished ones', moved + more, more;
    if left_over > 0 then
        raise warning '% rows stay in job_queue_before_pushq: pushq takes no such payload or type, or the id is taken', left_over;
    end if;
    if is_forced then
        alter table job_queue_before_pushq force row level security;
    end if;
end
$$;

commit;
