-- The way back: the old table job_queue, with every row of the view, and nothing of its jobs in pushq.jobs. Run this as the owner,
-- while no supervisor serves the queue job_queue. May be run again.
--
-- What an old worker holds stays `processing`: the worker goes on with the table. What a pool held is `pending`.

begin;
set local lock_timeout = '5s';

do $$
declare
    is_forced boolean;
    ids uuid[];
    guests text[];
    returned bigint := 0;
    left_over bigint;
begin
    if (select relkind from pg_class where oid = to_regclass('job_queue')) is distinct from 'v' then
        raise notice 'job_queue is no view: there is no way to go back';
        return;
    end if;
    -- Without pushq, as in schema.sql.
    perform set_config('search_path', concat_ws(', ', relnamespace::regnamespace, (
        select string_agg(quote_ident(name), ', ' order by place)
        from unnest(current_schemas(false)) with ordinality as path (name, place)
        where name <> 'pushq')), true)
    from pg_class where oid = to_regclass('job_queue');
    -- The app's statements wait here, and go on with the table.
    alter view job_queue rename to job_queue_upon_pushq;
    lock table tenants in share row exclusive mode;

    if to_regclass('job_queue_before_pushq') is not null then
        alter table job_queue_before_pushq rename to job_queue;
    else  -- there was none, or it was dropped
        create table job_queue (
            id uuid primary key default gen_random_uuid(),
            tenant_id uuid not null references tenants (id) on delete cascade,
            type text not null,
            status job_status not null default 'pending',
            payload jsonb not null default '{}',
            result jsonb,
            worker_id text,
            attempts integer not null default 0,
            next_retry_at timestamptz,
            created_at timestamptz not null default now(),
            completed_at timestamptz
        );
        create index idx_job_queue_tenant_id on job_queue (tenant_id);
        create index idx_job_queue_status_created_at on job_queue (status, created_at);
        create index idx_job_queue_type on job_queue (type);
    end if;
    -- Policies that bind the owner as well would refuse rows.
    select relforcerowsecurity into is_forced from pg_class where oid = 'job_queue'::regclass;
    alter table job_queue no force row level security;

    -- In rounds: a job that finishes meanwhile moves to another place. In pushq's order: guests, then jobs by their ids.
    for _ in 1..100 loop
        perform
        from pushq.supervisors as host
        where host.pid <= 0 and host.name in (
            select job.supervisor from pushq.jobs_unfinished as job where job.queue = 'job_queue' and job.status = 'running')
        order by host.name
        for update;
        ids := array(
            select job.id
            from job_queue_upon_pushq as job
            where exists (select from tenants where tenants.id = job.tenant_id)
            order by job.id
            for update of job);
        exit when cardinality(ids) = 0;
        delete from job_queue as old where old.id = any(ids);  -- had its id taken when the others moved
        insert into job_queue (
            id, tenant_id, type, status, payload, result, worker_id, attempts, next_retry_at, created_at, completed_at)
        select
            job.id, job.tenant_id, job.type,
            case when job.status = 'processing' and host.name is null then 'pending' else job.status end,
            job.payload, job.result, job.worker_id, job.attempts, job.next_retry_at, job.created_at, job.completed_at
        from job_queue_upon_pushq as job
        left join pushq.supervisors as host on host.name = 'guest:' || job.worker_id
        where job.id = any(ids);
        get diagnostics left_over = row_count;
        returned := returned + left_over;
        perform pushq.recall(job.id, job.token)
        from pushq.jobs_unfinished as job
        where job.id = any(ids) and job.status = 'running';
        guests := array(
            select distinct job.supervisor
            from pushq.jobs_unfinished as job
            where job.id = any(ids) and job.status = 'running');
        delete from pushq.jobs as job where job.id = any(ids) and job.queue = 'job_queue';
        perform pushq.dismiss_guest(guest) from unnest(guests) as guest;
    end loop;
    if is_forced then
        alter table job_queue force row level security;
    end if;

    drop view job_queue_upon_pushq;
    drop trigger job_queue_delete_tenant on tenants;
    drop trigger job_queue_keep_tenant on tenants;
    drop trigger job_queue_keep_tenants on tenants;
    drop function
        job_queue_insert(), job_queue_insert_check(), job_queue_update(), job_queue_delete(),
        job_queue_delete_tenant(), job_queue_keep_tenant();
    drop index pushq.job_queue_pending, pushq.job_queue_by_status, pushq.job_queue_by_tenant, pushq.job_queue_by_type;
    revoke select (supervisor) on pushq.jobs from authenticated;
    revoke
        select (
            id, tenant_id, task, status, payload, result, supervisor, attempt, run_at, enqueued_at, started_at, finished_at,
            queue),
        insert (id, task, payload, queue, run_at, tenant_id),
        update (priority)
        on pushq.jobs from super_admin, service_role;

    select count(*) into left_over from pushq.jobs where queue = 'job_queue';
    raise notice '% rows are back', returned;
    if left_over > 0 then
        raise warning '% rows of the queue job_queue are of no tenant, and stay in pushq.jobs', left_over;
    end if;
end
$$;

commit;
