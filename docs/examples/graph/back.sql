-- The way back: scheduler.graph_jobs and scheduler.graph_job_events are the old tables again, with every job and every event, and
-- nothing of them is left in pushq. Run as the owner. Stop the supervisors of graph first, or at once afterwards. May be run again.
--
-- What an old worker holds stays 1, running: the worker goes on with the table. What a pool holds is queued, and its handler is
-- stopped.

do $$
declare
    ids uuid[];
    guests text[];
    its_sequence text;
    left_over bigint;
begin
    set local lock_timeout = '5s';
    if (select relkind from pg_class where oid = to_regclass('scheduler.graph_jobs')) is distinct from 'v' then
        raise notice 'scheduler.graph_jobs is no view: nothing is to be done';
        return;
    end if;

    -- The app's statements wait here, and go on with the tables.
    alter view scheduler.graph_jobs rename to graph_jobs_of_pushq;
    alter view scheduler.graph_job_events rename to graph_job_events_of_pushq;
    alter table if exists scheduler.graph_jobs_before_pushq rename to graph_jobs;
    alter table if exists scheduler.graph_job_events_before_pushq rename to graph_job_events;
    create table if not exists scheduler.graph_jobs (
        id uuid primary key,
        tenant_id text not null,
        type smallint not null,
        status smallint not null,
        payload jsonb not null,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        correlation_id text
    );
    create index if not exists idx_graph_jobs_tenant_status on scheduler.graph_jobs (tenant_id, status, created_at desc);
    create index if not exists idx_graph_jobs_tenant_type_status
    on scheduler.graph_jobs (tenant_id, type, status, created_at desc);
    create table if not exists scheduler.graph_job_events (
        id bigserial primary key,
        job_id uuid not null references scheduler.graph_jobs (id) on delete cascade,
        tenant_id text not null,
        status smallint not null,
        payload jsonb not null,
        created_at timestamptz not null default now()
    );
    create index if not exists idx_graph_job_events_job on scheduler.graph_job_events (job_id, created_at desc);
    its_sequence := pg_get_serial_sequence('scheduler.graph_job_events', 'id');

    -- In rounds: a job that ends meanwhile moves to another place. In pushq's order: guests, then jobs by their ids.
    for _ in 1..100 loop
        perform
        from pushq.supervisors as host
        where host.pid <= 0 and host.name in (
            select job.supervisor from pushq.jobs_unfinished as job where job.queue = 'graph' and job.status = 'running')
        order by host.name
        for update;
        ids := array(
            select job.id
            from pushq.jobs as job
            where job.queue = 'graph' and job.task in ('graph.build', 'graph.overlay') and job.tenant_id is not null
            order by job.id
            for update);
        exit when cardinality(ids) = 0;
        perform pushq.change(job.id, 'running', 'queued')
        from pushq.jobs_unfinished as job
        where job.id = any(ids) and job.status = 'running' and not starts_with(job.supervisor, 'guest:graph ');

        -- Of several jobs that had one id, the last; a row that had stayed in the table is older.
        insert into scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
        select distinct on (id) id, tenant_id, type, status, payload, created_at, updated_at, correlation_id
        from scheduler.graph_jobs_of_pushq
        where id = any(ids)
        order by id, status, updated_at desc
        on conflict (id) do update set
            tenant_id = excluded.tenant_id, type = excluded.type, status = excluded.status, payload = excluded.payload,
            created_at = excluded.created_at, updated_at = excluded.updated_at, correlation_id = excluded.correlation_id;

        -- An id that is taken, which happens only to events older than the views, is drawn anew.
        perform setval(its_sequence, newest.id)
        from (
            select greatest(
                (select max(id) from scheduler.graph_job_events),
                (select max(id) from scheduler.graph_job_events_of_pushq)) as id
        ) as newest
        where newest.id is not null;
        insert into scheduler.graph_job_events (id, job_id, tenant_id, status, payload, created_at)
        select
            case
                when place > 1 or exists (select from scheduler.graph_job_events as taken where taken.id = event.id)
                    then nextval(its_sequence)
                else id
            end,
            job_id, tenant_id, status, payload, created_at
        from (
            select event.*, row_number() over (partition by id order by created_at) as place
            from scheduler.graph_job_events_of_pushq as event
            where job_id = any(ids)
        ) as event
        order by created_at, id;

        delete from pushq.job_events where job_id = any(ids);
        guests := array(
            select job.supervisor
            from pushq.jobs_unfinished as job
            where job.id = any(ids) and job.status = 'running'
            order by job.supervisor);
        delete from pushq.jobs as job where job.id = any(ids) and job.queue = 'graph';
        perform pushq.dismiss_guest(guest) from unnest(guests) as guest;
    end loop;

    drop view scheduler.graph_job_events_of_pushq, scheduler.graph_jobs_of_pushq;
    drop function scheduler.graph_jobs_write(), scheduler.graph_job_events_write();
    drop index
        pushq.graph_jobs_by_kind, pushq.graph_jobs_by_kind_and_status, pushq.graph_jobs_by_status, pushq.graph_jobs_by_id,
        pushq.graph_jobs_statistics;
    perform pushq.keep_all_events('graph', false);

    select count(*) into left_over from pushq.jobs where queue = 'graph';
    if left_over > 0 then
        raise warning '% jobs of the queue graph are of tasks that the view does not show, and stay in pushq.jobs', left_over;
    end if;
end
$$;
