-- graphiti_jobs as a view upon pushq.jobs: the app's statements go on as they are. Run as the owner of the app's tables and of
-- pushq's, after `pushq migrate`. May be run again.
--
-- An old worker that starts a job becomes a guest of pushq, one for each job: see docs/how-to/guests.md. The guest's lease is an
-- hour, or what the setting graphiti.lease says. All that the old worker writes afterwards counts only while the guest holds the job.

begin;
set local lock_timeout = '5s';

-- The view stands where the old table stood, else in the first schema of the search_path that is not pushq's own.
do $$
declare
    its_schema text := coalesce(
        (select relnamespace::regnamespace::text from pg_class where oid = to_regclass('graphiti_jobs')),
        (select quote_ident(name) from unnest(current_schemas(false)) with ordinality as path (name, place)
            where name <> 'pushq' order by place limit 1),
        'public');
begin
    perform set_config('search_path', concat_ws(', ', its_schema, nullif(current_setting('search_path'), '')), true);
    if (select relkind in ('r', 'p') from pg_class where oid = to_regclass('graphiti_jobs')) then
        alter table graphiti_jobs rename to graphiti_jobs_before_pushq;
    end if;
end
$$;

-- For the next queued job, and for all of a status. The planner cannot guess how few jobs are of this queue, where the condition
-- is a CASE: a condition on queue alone would, as long as there are no statistics, let a statement that looks for one id read the
-- whole index.
create index if not exists graphiti_jobs_status
on pushq.jobs ((case status when 'succeeded' then 'committed' when 'cancelled' then 'failed' else status end), enqueued_at)
where case queue when 'ingest' then true end is not null;

-- Bodies that pushq.jobs does not take: no object, or over 1 MiB. Such a job's payload there is {"graphiti_body": true}.
create table if not exists graphiti_bodies (job_id uuid primary key, body jsonb not null);

create or replace view graphiti_jobs as
select
    id as job_id,
    case task when 'ingest.bulk' then 'bulk' else 'single' end as job_type,
    case when payload ? 'graphiti_body'
        then coalesce((select kept.body from graphiti_bodies as kept where kept.job_id = id), payload) else payload end as payload,
    case status when 'succeeded' then 'committed' when 'cancelled' then 'failed' else status end as status,
    enqueued_at,
    case when status <> 'queued' then started_at end as started_at,
    finished_at,
    case when status = 'cancelled' then coalesce(error, 'cancelled') when finished_at is not null then error end as error,
    result as summary,
    nullif(submitted_by, ' ') as submitted_by  -- pushq.jobs knows no null here: a blank stands for it
from pushq.jobs
where case queue when 'ingest' then true end is not null and task in ('ingest.bulk', 'ingest.single');

alter view graphiti_jobs alter column status set default 'queued';
alter view graphiti_jobs alter column enqueued_at set default now();

-- What an INSERT, UPDATE or DELETE of the view does. Returns null, and so counts no row, if nothing may be changed: a job that
-- another worker has started, or that no old worker holds.
create or replace function graphiti_jobs_write() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    missing text;
    broken text;
    held uuid;
    payload jsonb := new.payload;
begin
    if tg_op = 'DELETE' then
        delete from pushq.jobs where id = old.job_id and queue = 'ingest' and status <> 'running';
        if found then
            execute format('delete from %I.graphiti_bodies where job_id = $1', tg_table_schema) using old.job_id;
            return old;
        end if;
        return null;
    end if;

    -- What the old table's columns and CHECKs refuse.
    missing := case
        when new.job_id is null then 'job_id'
        when new.job_type is null then 'job_type'
        when new.payload is null then 'payload'
        when new.status is null then 'status'
        when new.enqueued_at is null then 'enqueued_at'
    end;
    broken := case
        when new.job_type not in ('bulk', 'single') then 'graphiti_jobs_job_type_check'
        when new.status not in ('queued', 'running', 'committed', 'failed') then 'graphiti_jobs_status_check'
    end;
    if missing is not null then
        raise not_null_violation using
            table = 'graphiti_jobs', column = missing,
            message = format('null value in column "%s" of relation "graphiti_jobs" violates not-null constraint', missing);
    elsif broken is not null then
        raise check_violation using
            table = 'graphiti_jobs', constraint = broken,
            message = format('new row for relation "graphiti_jobs" violates check constraint "%s"', broken);
    end if;

    if tg_op = 'INSERT' then
        if (case when jsonb_typeof(payload) = 'object' then pg_column_size(payload || '{}') > 1048576 else true end) then
            execute format(
                'insert into %I.graphiti_bodies values ($1, $2) on conflict (job_id) do update set body = excluded.body',
                tg_table_schema) using new.job_id, payload;
            payload := '{"graphiti_body": true}';
        end if;
        -- Two that submit one id at once meet at this INSERT: ids of unfinished jobs are unique. Whoever comes second waits, and
        -- then finds the id taken, or the first job in its day.
        if not exists (select from pushq.jobs where id = new.job_id and finished_on = 'infinity') then
            insert into pushq.jobs (id, task, queue, payload, enqueued_at, run_at, submitted_by)
            values (
                new.job_id, 'ingest.' || new.job_type, 'ingest', payload, new.enqueued_at, least(new.enqueued_at, now()),
                coalesce(nullif(new.submitted_by, ''), ' '));
            held := new.job_id;
        end if;
        if held is null or exists (select from pushq.jobs where id = new.job_id and finished_on < 'infinity') then
            raise unique_violation using
                table = 'graphiti_jobs', constraint = 'graphiti_jobs_pkey',
                message = 'duplicate key value violates unique constraint "graphiti_jobs_pkey"',
                detail = format('Key (job_id)=(%s) already exists.', new.job_id);
        end if;
        if new.status in ('committed', 'failed') then
            delete from pushq.jobs where id = new.job_id and finished_on = 'infinity';
            insert into pushq.jobs (
                id, task, queue, payload, enqueued_at, run_at, submitted_by, status, attempt, failures, started_at,
                finished_at, error, result, finished_on)
            values (
                new.job_id, 'ingest.' || new.job_type, 'ingest', payload, new.enqueued_at, new.enqueued_at,
                coalesce(new.submitted_by, ' '), case new.status when 'committed' then 'succeeded' else 'failed' end, 1,
                (new.status = 'failed')::int, new.started_at, coalesce(new.finished_at, now()), new.error, new.summary,
                pushq.current_day());
        end if;
    end if;

    if new.status = 'running' and (tg_op = 'INSERT' or old.status = 'queued') then
        held := pushq.take(
            new.job_id, concat_ws(' ', 'graphiti', nullif(current_setting('application_name'), ''), new.job_id),
            coalesce(nullif(current_setting('graphiti.lease', true), ''), '1 hour')::interval);
        if held is null then
            return null;
        end if;
    elsif tg_op = 'UPDATE' and old.status = 'running' and new.status <> 'running' then
        select job.token into held
        from pushq.jobs as job
        where job.id = old.job_id and job.finished_on = 'infinity' and job.status = 'running'
        and starts_with(job.supervisor, 'guest:graphiti ');
        if not pushq.finish(
            old.job_id, held, case new.status when 'committed' then 'succeeded' when 'failed' then 'failed' else 'released' end,
            new.summary, new.error) then
            return null;
        end if;
    elsif tg_op = 'UPDATE' and old.status in ('committed', 'failed') and new.status = 'queued' then
        if pushq.retry(old.job_id) <> 'queued' then
            return null;
        end if;
    elsif tg_op = 'UPDATE' then
        return null;
    end if;
    return new;
end
$$;

create or replace trigger graphiti_jobs_write
instead of insert or update or delete on graphiti_jobs
for each row execute function graphiti_jobs_write();

-- Whoever could use the table may use the view.
do $$
declare
    command text;
begin
    for command in
        select format(
            'grant %s on graphiti_jobs to %s', its.privilege_type,
            case its.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(its.grantee)) end)
        from pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))) as its
        where oid = to_regclass('graphiti_jobs_before_pushq') and its.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    loop
        execute command;
    end loop;
end
$$;

-- The recovery scan's table, if the app has not made the table yet.
create table if not exists stage_3_queue (
    id bigint generated always as identity primary key,
    body jsonb not null,
    created_at timestamptz not null default now(),
    completed_at timestamptz,
    failed_at timestamptz,
    error text
);
alter table stage_3_queue add column if not exists external_job_id uuid;
create index if not exists idx_stage_3_queue_external_job on stage_3_queue (external_job_id)
where external_job_id is not null and completed_at is null and failed_at is null;

commit;
