-- scheduler.graph_jobs and scheduler.graph_job_events as views upon pushq.jobs and pushq.job_events: the app's statements go on as
-- they are. Run as the owner of the app's tables and of pushq's, after `pushq migrate`. May be run again.
--
-- Tables of these names become …_before_pushq. move.sql moves their rows, and back.sql leads back.

begin;
set local lock_timeout = '5s';
set local client_min_messages = warning;

-- The old tables -------------------------------------------------------------------------------------------------

do $$
declare
    referring text;
begin
    if to_regnamespace('scheduler') is null then  -- `if not exists` would need a right on the database all the same
        create schema scheduler;
    end if;
    if (select relkind from pg_class where oid = to_regclass('scheduler.graph_jobs')) in ('r', 'p') then
        -- The rows move, so a foreign key of another table cannot stay, and would take that table's rows along.
        select string_agg(format('alter table %s drop constraint %I;', conrelid::regclass, conname), ' ') into referring
        from pg_constraint
        where confrelid = to_regclass('scheduler.graph_jobs') and contype = 'f' and conparentid = 0
        and conrelid not in (confrelid, coalesce(to_regclass('scheduler.graph_job_events'), 0));
        if referring is not null then
            raise object_not_in_prerequisite_state using
                message = 'tables refer to scheduler.graph_jobs by foreign keys, which a view cannot have',
                hint = 'Run first: ' || referring;
        end if;
        alter table scheduler.graph_jobs rename to graph_jobs_before_pushq;
    end if;
    if (select relkind from pg_class where oid = to_regclass('scheduler.graph_job_events')) in ('r', 'p') then
        alter table scheduler.graph_job_events rename to graph_job_events_before_pushq;
    end if;
    -- Only once: whoever has turned this off since, because the app appends the same events, finds it off.
    if to_regclass('scheduler.graph_jobs') is null then
        perform pushq.keep_all_events('graph');
    end if;
end
$$;


-- Indexes --------------------------------------------------------------------------------------------------------

-- New days get the indexes by themselves. The planner cannot guess how few jobs are of this queue, where the condition is a CASE: a
-- condition on queue alone would, as long as there are no statistics, let a statement that looks for something else read a whole
-- index.

-- For the app's lists, newest first. No other queue pays.
create index if not exists graph_jobs_by_kind on pushq.jobs (
    tenant_id,
    (case task when 'graph.build' then 0 when 'graph.overlay' then 1 end::smallint),
    enqueued_at)
where case queue when 'graph' then true end is not null;
create index if not exists graph_jobs_by_kind_and_status on pushq.jobs (
    tenant_id,
    (case task when 'graph.build' then 0 when 'graph.overlay' then 1 end::smallint),
    (case status when 'queued' then 0 when 'running' then 1 when 'succeeded' then 2 when 'failed' then 3 else 4 end::smallint),
    enqueued_at)
where case queue when 'graph' then true end is not null;
create index if not exists graph_jobs_by_status on pushq.jobs (
    tenant_id,
    (case status when 'queued' then 0 when 'running' then 1 when 'succeeded' then 2 when 'failed' then 3 else 4 end::smallint),
    enqueued_at)
where case queue when 'graph' then true end is not null;
-- For one job. Without statistics, an index of the lists would seem to find as few rows as the id. This one is made last, since of
-- indexes that seem to be alike the planner takes the latest.
create index if not exists graph_jobs_by_id on pushq.jobs (
    id,
    tenant_id,
    (case task when 'graph.build' then 0 when 'graph.overlay' then 1 end::smallint),
    (case status when 'queued' then 0 when 'running' then 1 when 'succeeded' then 2 when 'failed' then 3 else 4 end::smallint))
where case queue when 'graph' then true end is not null;
-- Nobody reads this one: for its sake ANALYZE counts how many jobs have which type and status, which it does not for the sake of
-- indexes with a condition. Without these numbers the planner would think that a list is short, and sort it. A BRIN index of one
-- range takes some bytes a day and next to no time.
create index if not exists graph_jobs_statistics on pushq.jobs using brin (
    (case task when 'graph.build' then 0 when 'graph.overlay' then 1 end::smallint),
    (case status when 'queued' then 0 when 'running' then 1 when 'succeeded' then 2 when 'failed' then 3 else 4 end::smallint))
with (pages_per_range = 131072);


-- The views ------------------------------------------------------------------------------------------------------

-- A blank stands for an empty correlation id, which pushq refuses.
create or replace view scheduler.graph_jobs as
select
    id,
    tenant_id,
    case task when 'graph.build' then 0 when 'graph.overlay' then 1 end::smallint as type,
    case status when 'queued' then 0 when 'running' then 1 when 'succeeded' then 2 when 'failed' then 3 else 4 end::smallint
        as status,
    payload,
    enqueued_at as created_at,
    coalesce(finished_at, greatest(enqueued_at, started_at)) as updated_at,
    case correlation_id when ' ' then '' else correlation_id end as correlation_id
from pushq.jobs
where case queue when 'graph' then true end is not null
and task in ('graph.build', 'graph.overlay') and tenant_id is not null;

alter view scheduler.graph_jobs
    alter column created_at set default now(),
    alter column updated_at set default now();

-- What changed a job's status, and the notes that the app has appended. Events that move.sql has moved keep their old ids, which
-- are smaller than those of pushq's events.
create or replace view scheduler.graph_job_events as
select
    case
        when kind = 'note' and jsonb_typeof(detail -> 'id') = 'number' and detail -> 'id' between '1' and '9223372036854775807'
            then (detail -> 'id')::bigint
        else id
    end as id,
    job_id,
    tenant_id,
    case
        when kind <> 'note' then case became
            when 'queued' then 0 when 'running' then 1 when 'succeeded' then 2 when 'failed' then 3 else 4 end::smallint
        when jsonb_typeof(detail -> 'status') = 'number' and detail -> 'status' between '-32768' and '32767'
            then (detail -> 'status')::smallint
    end as status,
    case kind
        when 'note' then detail -> 'payload'
        else jsonb_strip_nulls(jsonb_build_object('kind', kind, 'attempt', attempt, 'error', error))
    end as payload,
    at as created_at
from pushq.job_events as event
where case kind
    when 'note' then
        jsonb_typeof(detail -> 'status') = 'number' and detail -> 'status' between '-32768' and '32767' and detail ? 'payload'
    else was <> became
end
and exists (
    select
    from pushq.jobs as job
    where job.id = event.job_id and case job.queue when 'graph' then true end is not null and job.tenant_id is not null
    and job.task in ('graph.build', 'graph.overlay'));

alter view scheduler.graph_job_events alter column created_at set default now();

do $$
declare
    newest bigint;
begin
    if to_regclass('scheduler.graph_job_events_before_pushq') is not null then
        lock table pushq.job_events in share mode;  -- nobody draws an id meanwhile
        select max(id) into newest from scheduler.graph_job_events_before_pushq;
        perform setval('pushq.job_event_ids', newest) from pushq.job_event_ids where last_value < newest;
    end if;
end
$$;


-- Jobs -----------------------------------------------------------------------------------------------------------

-- What an INSERT, UPDATE or DELETE of jobs does. Returns null, and so counts no row, where the job is not what the statement
-- thinks, or somebody else holds the job.
--
-- An old worker that replaces queued by running becomes a guest of pushq, one for each job: see docs/how-to/guests.md. The lease is
-- an hour, or what the setting graph.lease says. Rows are locked in pushq's order: the guest, then the job.
create or replace function scheduler.graph_jobs_write() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    words text[] := '{queued,running,succeeded,failed,cancelled}';
    lease interval := coalesce(nullif(current_setting('graph.lease', true), ''), '1 hour');
    missing text;
    held uuid;
    job pushq.jobs;
begin
    -- What the old table's columns refuse, and what has no meaning.
    if tg_op <> 'DELETE' then
        missing := case
            when new.id is null then 'id'
            when new.tenant_id is null then 'tenant_id'
            when new.type is null then 'type'
            when new.status is null then 'status'
            when new.payload is null then 'payload'
            when new.created_at is null then 'created_at'
            when new.updated_at is null then 'updated_at'
        end;
        if missing is not null then
            raise not_null_violation using
                schema = 'scheduler', table = 'graph_jobs', column = missing,
                message = format('null value in column "%s" of relation "graph_jobs" violates not-null constraint', missing);
        elsif new.status not between 0 and 4 then
            raise check_violation using
                schema = 'scheduler', table = 'graph_jobs', constraint = 'graph_jobs_status_check',
                message = format('status is 0 queued, 1 running, 2 completed, 3 failed or 4 canceled, and not %s', new.status);
        elsif new.type not between 0 and 1 then
            raise check_violation using
                schema = 'scheduler', table = 'graph_jobs', constraint = 'graph_jobs_type_check',
                message = format('type is 0, graph.build, or 1, graph.overlay, and not %s', new.type);
        end if;
    end if;

    if tg_op = 'INSERT' then
        if new.status <> 0 then
            raise feature_not_supported using
                message = format('a job begins as 0, queued, and not as %s', new.status),
                hint = 'move.sql moves rows of an old table, whatever their status.';
        end if;
        -- Two that insert one id at once meet at this INSERT: ids of unfinished jobs are unique. Whoever comes second waits, and
        -- then finds the id taken, or the first job in its day.
        if not exists (select from pushq.jobs where id = new.id and finished_on = 'infinity') then
            insert into pushq.jobs (id, task, queue, payload, tenant_id, correlation_id)
            values (
                new.id, case new.type when 0 then 'graph.build' else 'graph.overlay' end, 'graph', new.payload, new.tenant_id,
                case new.correlation_id when '' then ' ' else new.correlation_id end)
            returning enqueued_at, enqueued_at, id into new.created_at, new.updated_at, held;
        end if;
        if held is null or exists (select from pushq.jobs where id = new.id and finished_on < 'infinity') then
            raise unique_violation using
                schema = 'scheduler', table = 'graph_jobs', constraint = 'graph_jobs_pkey',
                message = 'duplicate key value violates unique constraint "graph_jobs_pkey"',
                detail = format('Key (id)=(%s) already exists.', new.id);
        end if;
        return new;
    end if;

    if tg_op = 'UPDATE' and (new.id, new.tenant_id, new.type, new.correlation_id)
        is distinct from (old.id, old.tenant_id, old.type, old.correlation_id) then
        raise feature_not_supported using
            message = 'id, tenant_id, type and correlation_id of a job stay as they are',
            hint = 'Delete the job, and insert another.';
    elsif tg_op = 'UPDATE' and old.status = 0 and new.status = 1 then
        held := pushq.take(
            old.id, concat_ws(' ', 'graph', nullif(current_setting('application_name'), ''), old.id), lease);
        if held is null then
            return null;
        end if;
        update pushq.jobs_unfinished as its set payload = new.payload where its.id = old.id and its.token = held;
    elsif tg_op = 'UPDATE' and old.status > 1 then
        -- Whatever has ended stays so, unless it is to run again.
        if new.status <> 0 or pushq.retry(old.id, words[old.status + 1]) <> 'queued' then
            return null;
        end if;
        update pushq.jobs_unfinished as its set payload = new.payload where its.id = old.id and its.status = 'queued';
    else
        perform
        from pushq.jobs_unfinished as its
        join pushq.supervisors as host on host.name = its.supervisor
        where its.id = old.id and its.status = 'running' and host.pid <= 0
        for update of host;
        select its.* into job from pushq.jobs_unfinished as its where its.id = old.id and its.queue = 'graph' for update;

        if tg_op = 'DELETE' then
            delete from pushq.jobs as its where its.id = old.id and its.queue = 'graph';
            if not found then
                return null;
            elsif job.status = 'running' then
                perform pushq.recall(old.id, job.token), pushq.dismiss_guest(job.supervisor);
            end if;
            return old;
        elsif job.status is distinct from words[old.status + 1] or job.apart = 'cancelling' then
            return null;
        elsif new.status <> 4 and (
            job.status = 'queued' and new.status <> 0
            or job.status = 'running' and not starts_with(job.supervisor, 'guest:graph ')) then
            return null;
        end if;

        update pushq.jobs_unfinished as its set payload = new.payload where its.id = old.id;
        if new.status = 4 then
            perform pushq.cancel(old.id, job.status);
            perform pushq.dismiss_guest(job.supervisor);
        elsif new.status <> old.status then
            perform pushq.finish(
                old.id, job.token, case new.status when 2 then 'succeeded' when 3 then 'failed' else 'released' end);
        elsif new.status = 1 then
            perform pushq.extend(old.id, job.token, lease);
        end if;
    end if;
    select its.* into new from scheduler.graph_jobs as its where its.id = old.id;
    return new;
end
$$;


-- Events ---------------------------------------------------------------------------------------------------------

-- What the app appends is a note among pushq's events, which nobody changes.
create or replace function scheduler.graph_job_events_write() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    missing text := case
        when new.job_id is null then 'job_id'
        when new.tenant_id is null then 'tenant_id'
        when new.status is null then 'status'
        when new.payload is null then 'payload'
        when new.created_at is null then 'created_at'
    end;
begin
    if tg_op <> 'INSERT' then
        raise feature_not_supported using
            message = 'events stay as they are', hint = 'They leave after PUSHQ_RETENTION, or with their job.';
    elsif missing is not null then
        raise not_null_violation using
            schema = 'scheduler', table = 'graph_job_events', column = missing,
            message = format('null value in column "%s" of relation "graph_job_events" violates not-null constraint', missing);
    elsif not exists (
        select from scheduler.graph_jobs as job where job.id = new.job_id and job.tenant_id = new.tenant_id) then
        raise foreign_key_violation using
            schema = 'scheduler', table = 'graph_job_events', constraint = 'graph_job_events_job_id_fkey',
            message =
                'insert or update on table "graph_job_events" violates foreign key constraint "graph_job_events_job_id_fkey"',
            detail = format('Tenant %L has no job %s in "graph_jobs".', new.tenant_id, new.job_id);
    end if;
    new.id := pushq.note(new.job_id, jsonb_build_object('status', new.status, 'payload', new.payload));
    select event.at into new.created_at from pushq.job_events as event where event.job_id = new.job_id and event.id = new.id;
    return new;
end
$$;

create or replace trigger graph_jobs_write
instead of insert or update or delete on scheduler.graph_jobs
for each row execute function scheduler.graph_jobs_write();
create or replace trigger graph_job_events_write
instead of insert or update or delete on scheduler.graph_job_events
for each row execute function scheduler.graph_job_events_write();

-- Nobody hangs these functions on a table of his own.
revoke execute on function scheduler.graph_jobs_write(), scheduler.graph_job_events_write() from public;

-- Whoever could use the tables may use the views.
do $$
declare
    command text;
begin
    for command in
        select format(
            'grant %s on scheduler.%I to %s', its.privilege_type, made.name,
            case its.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(its.grantee)) end)
        from (values ('graph_jobs'), ('graph_job_events')) as made (name)
        join pg_class on pg_class.oid = to_regclass(format('scheduler.%I', made.name || '_before_pushq')),
        aclexplode(coalesce(relacl, acldefault('r', relowner))) as its
        where its.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    loop
        execute command;
    end loop;
end
$$;

commit;
