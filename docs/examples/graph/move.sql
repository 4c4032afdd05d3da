-- Moves the rows of the old tables into pushq.jobs and pushq.job_events, after schema.sql. Jobs that were interrupted are queued.
-- Finished jobs keep their status and times; their time in pushq, as PUSHQ_RETENTION says, begins now. Events keep their ids,
-- times and order. May be run again.
--
-- A job stays in graph_jobs_before_pushq, with its events, if pushq has a job with its id, if its type or status has no name, or if
-- the job waits and pushq would refuse its payload (no object, or over 1 MiB), its tenant (empty, or over 200 characters) or its
-- correlation id (over 200 characters).

do $$
declare
    moved uuid[];
    stay bigint;
begin
    if to_regclass('scheduler.graph_jobs_before_pushq') is null
        or to_regclass('scheduler.graph_job_events_before_pushq') is null then
        raise notice 'there are no tables scheduler.…_before_pushq: nothing is to be moved';
        return;
    end if;
    lock table scheduler.graph_jobs_before_pushq, scheduler.graph_job_events_before_pushq in access exclusive mode;

    -- All at once: the views and the pools see none of them before the end. What began or changed after its INSERT has that instant
    -- in started_at.
    with unfinished as (
        insert into pushq.jobs (id, task, queue, payload, tenant_id, correlation_id, enqueued_at, run_at, started_at)
        select
            id, case type when 0 then 'graph.build' else 'graph.overlay' end, 'graph', payload,
            tenant_id, case correlation_id when '' then ' ' else correlation_id end, created_at,
            greatest(least(created_at, now()), '1970-01-02 00:00:00+00'), nullif(updated_at, created_at)
        from scheduler.graph_jobs_before_pushq as old
        where status in (0, 1) and type in (0, 1)
        and jsonb_typeof(payload) = 'object' and pg_column_size(payload || '{}') <= 1048576
        and length(tenant_id) between 1 and 200 and coalesce(length(correlation_id), 0) <= 200
        and not exists (select from pushq.jobs where id = old.id)
        order by created_at
        returning id
    ),
    -- Not into the days on which the jobs ended: days before pushq's first do not exist, and old days soon leave.
    finished as (
        insert into pushq.jobs (
            id, task, queue, payload, tenant_id, correlation_id, enqueued_at, run_at, status, attempt, failures, error,
            finished_at, finished_on)
        select
            id, case type when 0 then 'graph.build' else 'graph.overlay' end, 'graph', payload,
            tenant_id, case correlation_id when '' then ' ' else correlation_id end, created_at,
            created_at, case status when 2 then 'succeeded' when 3 then 'failed' else 'cancelled' end, 1, (status = 3)::int,
            case status when 3 then 'failed' end, updated_at, pushq.current_day()
        from scheduler.graph_jobs_before_pushq as old
        where status in (2, 3, 4) and type in (0, 1)
        and not exists (select from pushq.jobs where id = old.id)
        order by updated_at
        returning id
    )
    select array(select id from unfinished union all select id from finished) into moved;

    insert into pushq.job_events (job_id, tenant_id, kind, at, actor, detail)
    select
        job_id, tenant_id, 'note', created_at, pushq.actor(),
        jsonb_build_object('status', status, 'payload', payload, 'id', id)
    from scheduler.graph_job_events_before_pushq
    join unnest(moved) as job (id_of_job) on id_of_job = job_id
    order by id;

    delete from scheduler.graph_job_events_before_pushq as old using unnest(moved) as job (id) where old.job_id = job.id;
    delete from scheduler.graph_jobs_before_pushq as old using unnest(moved) as job (id) where old.id = job.id;

    analyze pushq.jobs;
    analyze pushq.job_events;

    select count(*) into stay from scheduler.graph_jobs_before_pushq;
    if stay > 0 then
        raise notice '% jobs stay in scheduler.graph_jobs_before_pushq: see the head of move.sql', stay;
    end if;
end
$$;
