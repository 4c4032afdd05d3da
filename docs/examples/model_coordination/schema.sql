-- jobs, job_queue_state, job_queue_log and workflow_executions as views upon pushq.jobs and pushq.job_events: what the site asks goes
-- on as before, and is true at every moment. Run as the owner of pushq's schema, after `pushq migrate`. May be run again.
--
-- Tables of these names become …_before_pushq. rollback.sql leads back.
--
-- A model is a resource of pushq: a job of the queue `models` needs `model:NAME` for each of its models, and of each there is one. Nothing
-- is written to say that a job is blocked, by whom, or at which place it stands: the views read it off the rows that wait and run.

begin;
set local lock_timeout = '5s';
set local client_min_messages = warning;

-- The old tables -------------------------------------------------------------------------------------------------

do $$
declare
    old_name text;
    old_names text[] := '{jobs,workflow_executions,job_queue_state,job_queue_log}';
    referring text;
begin
    -- A foreign key of another table would go on pointing at the old rows, and refuse the new ones.
    select string_agg(format('alter table %s drop constraint %I;', conrelid::regclass, conname), ' ') into referring
    from pg_constraint
    where contype = 'f' and conparentid = 0
    and confrelid in (select to_regclass('public.' || name) from unnest(old_names) as name)
    and conrelid not in (select coalesce(to_regclass('public.' || name), 0) from unnest(old_names) as name);
    if referring is not null then
        raise object_not_in_prerequisite_state using
            message = 'tables refer to jobs, workflow_executions, job_queue_state or job_queue_log by foreign keys, which a view '
                'cannot have',
            hint = 'Run first: ' || referring;
    end if;
    foreach old_name in array old_names loop
        if (select relkind from pg_class where oid = to_regclass('public.' || old_name)) in ('r', 'p') then
            execute format('alter table public.%I rename to %I', old_name, old_name || '_before_pushq');
        end if;
    end loop;
    perform pushq.keep_all_events('models');
    -- A login named pushq has the schema pushq first on its search path, and would find pushq.jobs for `jobs`.
    if session_user = 'pushq' then
        execute format('alter role pushq in database %I set search_path = public', current_database());
    end if;
end
$$;


-- Indexes --------------------------------------------------------------------------------------------------------

-- New days get the indexes by themselves. No other queue pays. The planner cannot guess how few jobs are of this queue, where the
-- condition is a CASE: a condition on queue alone would, as long as there are no statistics, let a statement that looks for something
-- else read a whole index.

-- The line, which is read from the index alone.
create index if not exists coordination_line on pushq.jobs (
    priority, run_at, ((case when id = md5(correlation_id)::uuid then correlation_id else id::text end) collate "C")
) include (id, correlation_id)
where case queue when 'models' then true end is not null and status = 'queued';
-- For lists of what has ended.
create index if not exists coordination_by_status on pushq.jobs (
    (case status when 'succeeded' then 'completed' else status end), finished_at)
where case queue when 'models' then true end is not null;
-- For one job. Without statistics, the line would seem to find as few rows as the id; with the status, this one finds fewer.
create index if not exists coordination_by_id on pushq.jobs (
    (case when id = md5(correlation_id)::uuid then correlation_id else id::text end), status)
where case queue when 'models' then true end is not null;


-- The views ------------------------------------------------------------------------------------------------------

-- Old ids are texts. An id that is no uuid as PostgreSQL writes one is the job's correlation_id, and its md5 is the job's uuid.

-- Which running job holds which model. Jobs of other queues are among them, if they need a `model:NAME`.
create or replace view public.model_holders as
select
    substr(need.name, 7) as model,
    case when job.id = md5(job.correlation_id)::uuid then job.correlation_id else job.id::text end as job_id,
    'normal' as job_type,
    job.started_at
from pushq.jobs_unfinished as job
cross join lateral jsonb_object_keys(job.needs) as need (name)
where job.status = 'running' and job.needs is not null and starts_with(need.name, 'model:');

create or replace view public.jobs as
-- What waits. Both parts of the WITH are computed once in a statement, and `line` only if the statement reads queue_position.
(
    with holder as materialized (
        select 'model:' || model as need, model, job_id, job_type, started_at from public.model_holders
    ),
    line as materialized (
        select jsonb_object_agg(waiting.id, waiting.place) as places
        from (
            select
                id,
                row_number() over (
                    order by
                        priority, run_at,
                        (case when id = md5(correlation_id)::uuid then correlation_id else id::text end) collate "C") as place
            from pushq.jobs_unfinished
            where case queue when 'models' then true end is not null and status = 'queued'
        ) as waiting
    )
    select
        case when job.id = md5(job.correlation_id)::uuid then job.correlation_id else job.id::text end as id,
        word.status,
        job.payload - 'models' as payload,
        job.priority::int as priority,
        coalesce(job.payload -> 'models', '[]') as required_models,
        ((select line.places from line) -> job.id::text)::int as queue_position,
        first.job_id as blocked_by_job_id,
        'model ' || first.model || ' is held by ' || case first.job_type when 'normal' then 'job ' else 'workflow ' end || first.job_id
            as conflict_reason,
        job.run_at as queued_at,
        null::timestamptz as started_at,
        null::timestamptz as completed_at
    from pushq.jobs_unfinished as job
    left join lateral (
        select holder.*
        from holder
        where job.needs ? holder.need
        order by holder.started_at, holder.job_id collate "C", holder.model collate "C"
        limit 1
    ) as first on true
    -- A join, so that a statement which wants neither word does not look at what waits.
    join (values ('queued'), ('blocked')) as word (status)
        on word.status = case when first.job_id is null then 'queued' else 'blocked' end
    where case job.queue when 'models' then true end is not null and job.task = 'coord.run' and job.status = 'queued'
)
union all
-- What runs.
select
    case when id = md5(correlation_id)::uuid then correlation_id else id::text end,
    'running',
    payload - 'models',
    priority::int,
    coalesce(payload -> 'models', '[]'),
    null, null, null,
    run_at,
    started_at,
    null
from pushq.jobs_unfinished
where case queue when 'models' then true end is not null and task = 'coord.run' and status = 'running'
union all
-- What has ended.
select
    case when id = md5(correlation_id)::uuid then correlation_id else id::text end,
    case status when 'succeeded' then 'completed' else status end,
    payload - 'models',
    priority::int,
    coalesce(payload -> 'models', '[]'),
    null, null, null,
    run_at,
    started_at,
    finished_at
from pushq.jobs
where case queue when 'models' then true end is not null and task = 'coord.run' and finished_on < 'infinity';

alter view public.jobs
    alter column payload set default '{}',
    alter column priority set default 0,
    alter column required_models set default '[]';

-- Workflows are not here yet: the view is empty.
create or replace view public.workflow_executions as
select
    null::text as id,
    null::text as status,
    null::jsonb as steps,
    null::jsonb as required_models,
    null::text as current_step_model,
    null::text as blocked_by_job_id,
    null::timestamptz as created_at,
    null::timestamptz as completed_at
where false;

-- One row: the running job that began first, and all models that are held. The row is computed when it is read, which is what
-- last_updated says.
create or replace view public.job_queue_state as
select
    1 as id,
    active.job_id as active_job_id,
    active.job_type as active_job_type,
    (
        select coalesce(jsonb_agg(distinct holder.model collate "C" order by holder.model collate "C"), '[]')
        from public.model_holders as holder
    ) as active_models,
    active.started_at,
    clock_timestamp() as last_updated
from (values (1)) as always (one)
left join lateral (
    select
        case when job.id = md5(job.correlation_id)::uuid then job.correlation_id else job.id::text end as job_id,
        'normal' as job_type,
        job.started_at
    from pushq.jobs_unfinished as job
    where case job.queue when 'models' then true end is not null and job.task = 'coord.run' and job.status = 'running'
    order by job.started_at, 1
    limit 1
) as active on true;

-- pushq's events that changed a job's status, and the notes of INSERTs. Ids are in the order of the events.
create or replace view public.job_queue_log as
select
    lpad(to_hex(event.id), 32, '0')::uuid as id,
    case when job.id = md5(job.correlation_id)::uuid then job.correlation_id else job.id::text end as job_id,
    'normal' as job_type,
    case
        when event.kind = 'note' then 'queued'
        when event.kind = 'retried' then 'retried'
        when event.became = 'running' then 'started'
        when event.became = 'succeeded' then 'completed'
        when event.became = 'queued' then 'requeued'
        else event.became
    end as event_type,
    coalesce(job.payload -> 'models', '[]') as models,
    event.detail #>> '{queued,blocked_by}' as blocked_by_job_id,
    event.detail #>> '{queued,reason}' as conflict_reason,
    jsonb_strip_nulls(
        jsonb_build_object('attempt', event.attempt, 'actor', event.actor, 'error', event.error)
        || case when event.kind = 'note' then '{}' else coalesce(event.detail, '{}') end) as metadata,
    event.at as created_at
from pushq.jobs as job
join pushq.job_events as event on event.job_id = job.id
where case job.queue when 'models' then true end is not null and job.task = 'coord.run'
and case event.kind when 'note' then jsonb_typeof(event.detail -> 'queued') = 'object' else event.was <> event.became end
union all
-- A job that was inserted into pushq.jobs itself has no note of its INSERT: who blocked the job then is not known.
select
    job.id,
    case when job.id = md5(job.correlation_id)::uuid then job.correlation_id else job.id::text end,
    'normal',
    'queued',
    coalesce(job.payload -> 'models', '[]'),
    null, null,
    jsonb_build_object('attempt', 0, 'actor', job.submitted_by),
    job.enqueued_at
from pushq.jobs as job
where case job.queue when 'models' then true end is not null and job.task = 'coord.run'
and not exists (
    select
    from pushq.job_events as event
    where event.job_id = job.id and event.kind = 'note' and jsonb_typeof(event.detail -> 'queued') = 'object');


-- Jobs -----------------------------------------------------------------------------------------------------------

-- What an INSERT of a job does. An UPDATE or DELETE says what does it now.
create or replace function public.jobs_write() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    uuid_as_written constant text := '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
    its_uuid uuid;
    wrong text;
    held uuid;
begin
    if tg_op <> 'INSERT' then
        raise feature_not_supported using
            message = 'a job is not changed by UPDATE or DELETE of the view jobs',
            hint = 'pushq.cancel(id), pushq.retry(id) and pushq.reprioritize(id, priority) change jobs.';
    end if;
    new.id := coalesce(new.id, pushq.uuidv7()::text);
    new.payload := coalesce(new.payload, '{}');
    new.priority := coalesce(new.priority, 0);
    new.required_models := coalesce(nullif(new.required_models, 'null'), '[]');
    wrong := case
        when length(new.id) not between 1 and 200 then format('an id has 1 to 200 characters, not %s', length(new.id))
        when new.status not in ('queued', 'blocked') then format('a job begins as queued, and not as %s', new.status)
        when jsonb_typeof(new.payload) <> 'object' then format('payload is an object, not %s', jsonb_typeof(new.payload))
        when new.priority not between -32768 and 32767
            then format('priority is a number from -32768 to 32767, not %s', new.priority)
        when jsonb_typeof(new.required_models) <> 'array'
            or jsonb_path_exists(new.required_models, 'strict $ ? (@.type() == "array")[*] ? (@.type() != "string")')
            then 'required_models is an array of names of models, such as ["a", "b"]'
        when exists (
            select from jsonb_array_elements_text(new.required_models) as name where length(name) not between 1 and 194)
            then 'the name of a model has 1 to 194 characters'
        when (select count(distinct name) from jsonb_array_elements_text(new.required_models) as name) > 16
            then 'a job needs at most 16 models'
    end;
    if wrong is not null then
        raise check_violation using schema = 'public', table = 'jobs', message = wrong;
    end if;

    its_uuid := case when new.id ~ uuid_as_written then new.id::uuid else md5(new.id)::uuid end;
    new.queued_at := least(new.queued_at, now());
    -- Two that insert one id at once meet at this INSERT: ids of unfinished jobs are unique. Whoever comes second waits, and then
    -- finds the id taken, or the first job in its day.
    if not exists (select from pushq.jobs where id = its_uuid and finished_on = 'infinity') then
        insert into pushq.jobs (id, task, queue, payload, priority, run_at, correlation_id, needs)
        values (
            its_uuid, 'coord.run', 'models', new.payload || jsonb_build_object('models', new.required_models), new.priority,
            new.queued_at, case when new.id !~ uuid_as_written then new.id end,
            (select jsonb_object_agg('model:' || name, 1) from jsonb_array_elements_text(new.required_models) as name))
        returning id into held;
    end if;
    if held is null or exists (select from pushq.jobs where id = its_uuid and finished_on < 'infinity') then
        raise unique_violation using
            schema = 'public', table = 'jobs', constraint = 'jobs_pkey',
            message = 'duplicate key value violates unique constraint "jobs_pkey"',
            detail = format('Key (id)=(%s) already exists.', new.id);
    end if;

    select its.status, its.blocked_by_job_id, its.conflict_reason, its.payload
    into new.status, new.blocked_by_job_id, new.conflict_reason, new.payload
    from public.jobs as its
    where its.id = new.id;
    new.queue_position := null;
    new.started_at := null;
    new.completed_at := null;
    perform pushq.note(
        its_uuid,
        jsonb_build_object('queued', jsonb_build_object('blocked_by', new.blocked_by_job_id, 'reason', new.conflict_reason)));
    return new;
end
$$;

create or replace trigger jobs_write
instead of insert or update or delete on public.jobs
for each row execute function public.jobs_write();

-- Nobody hangs this function on a table of his own.
revoke execute on function public.jobs_write() from public;

-- Whoever could use the tables may use the views.
do $$
declare
    command text;
begin
    for command in
        select format(
            'grant %s on public.%I to %s', its.privilege_type, made.name,
            case its.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(its.grantee)) end)
        from (values ('jobs'), ('workflow_executions'), ('job_queue_state'), ('job_queue_log')) as made (name)
        join pg_class on pg_class.oid = to_regclass(format('public.%I', made.name || '_before_pushq')),
        aclexplode(coalesce(relacl, acldefault('r', relowner))) as its
        where its.privilege_type in ('SELECT', 'INSERT')
    loop
        execute command;
    end loop;
end
$$;

commit;
