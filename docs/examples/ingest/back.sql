-- The way back: graphiti_jobs is the old table again, with every row that pushq has, and nothing of ingest is left in pushq.jobs.
-- Jobs that run are queued, and their handlers are stopped. Stop the supervisors of ingest first, or at once afterwards. May be run
-- again.

do $$
begin
    set local lock_timeout = '5s';
    if coalesce((select relkind <> 'v' from pg_class where oid = to_regclass('graphiti_jobs')), true) then
        raise notice 'graphiti_jobs is no view: nothing is to be done';
        return;
    end if;
    perform set_config(
        'search_path', concat_ws(', ', relnamespace::regnamespace, nullif(current_setting('search_path'), '')), true)
    from pg_class where oid = to_regclass('graphiti_jobs');

    alter view graphiti_jobs rename to graphiti_jobs_of_pushq;
    alter table if exists graphiti_jobs_before_pushq rename to graphiti_jobs;
    create table if not exists graphiti_jobs (
        job_id uuid primary key,
        job_type text not null check (job_type in ('bulk', 'single')),
        payload jsonb not null,
        status text not null default 'queued' check (status in ('queued', 'running', 'committed', 'failed')),
        enqueued_at timestamptz not null default now(),
        started_at timestamptz,
        finished_at timestamptz,
        error text,
        summary jsonb,
        submitted_by text
    );
    create index if not exists idx_graphiti_jobs_queued on graphiti_jobs (enqueued_at) where status = 'queued';
    create index if not exists idx_graphiti_jobs_status on graphiti_jobs (status);

    -- Once more for jobs that have ended between two statements, since their rows have moved.
    loop
        perform pushq.finish(id, token, 'released')  -- and so dismisses the guests
        from pushq.jobs
        where queue = 'ingest' and task in ('ingest.bulk', 'ingest.single') and finished_on = 'infinity' and status = 'running'
        and starts_with(supervisor, 'guest:');
        perform from pushq.jobs  -- in the order in which pushq locks rows
        where queue = 'ingest' and task in ('ingest.bulk', 'ingest.single') and finished_on = 'infinity'
        order by id for update;
        perform pushq.change(id, 'running', 'queued')
        from pushq.jobs
        where queue = 'ingest' and task in ('ingest.bulk', 'ingest.single') and finished_on = 'infinity' and status = 'running';

        -- Of several jobs that had one id, the last; a row that had stayed in the table is older.
        with gone as (
            delete from pushq.jobs where queue = 'ingest' and task in ('ingest.bulk', 'ingest.single') returning id
        )
        insert into graphiti_jobs
        select distinct on (job_id) *
        from graphiti_jobs_of_pushq
        where job_id in (select id from gone)
        order by job_id, finished_at desc nulls first
        on conflict (job_id) do update set
            job_type = excluded.job_type, payload = excluded.payload, status = excluded.status,
            enqueued_at = excluded.enqueued_at, started_at = excluded.started_at, finished_at = excluded.finished_at,
            error = excluded.error, summary = excluded.summary, submitted_by = excluded.submitted_by;
        exit when not found;
    end loop;

    drop view graphiti_jobs_of_pushq;
    drop table if exists graphiti_bodies;
    drop function graphiti_jobs_write();
    drop index pushq.graphiti_jobs_status;
end
$$;
