-- jobs and artifacts as views upon pushq.jobs and pushq.artifacts: the app's statements go on as they are. Run as the owner of pushq's
-- schema, after `pushq migrate`. May be run again.
--
-- Tables of these names become …_before_pushq. move.sql moves their rows, and rollback.sql leads back.
--
-- A job of the app is a job of the queue `foreman` and the task `foreman.chat`. Its affinity is the model, so that a worker drains one
-- model after the other. Its payload is {"model": text, "payload": what the app gave, "state_webhook_url": text}, the last two only if given.

begin;
set local lock_timeout = '5s';
set local client_min_messages = warning;

-- The old tables -------------------------------------------------------------------------------------------------

do $$
declare
    old_name text;
    old_names text[] := '{jobs,artifacts}';
    referring text;
begin
    if (select relkind from pg_class where oid = to_regclass('public.jobs')) = 'v' and not exists (
        select from pg_attribute where attrelid = to_regclass('public.jobs') and attname = 'state_webhook_url')
    then
        raise object_not_in_prerequisite_state using
            message = 'public.jobs is a view of somebody else',
            hint = 'Two examples that make a view `jobs` need a database each.';
    end if;
    -- A foreign key of another table would go on pointing at the old rows, and refuse the new ones.
    select string_agg(format('alter table %s drop constraint %I;', conrelid::regclass, conname), ' ') into referring
    from pg_constraint
    where contype = 'f' and conparentid = 0
    and confrelid in (select to_regclass('public.' || name) from unnest(old_names) as name)
    and conrelid not in (select coalesce(to_regclass('public.' || name), 0) from unnest(old_names) as name);
    if referring is not null then
        raise object_not_in_prerequisite_state using
            message = 'tables refer to jobs or artifacts by foreign keys, which a view cannot have',
            hint = 'Run first: ' || referring;
    end if;
    foreach old_name in array old_names loop
        if (select relkind from pg_class where oid = to_regclass('public.' || old_name)) in ('r', 'p') then
            execute format('alter table public.%I rename to %I', old_name, old_name || '_before_pushq');
        end if;
    end loop;
    if to_regclass('public.foreman_artifacts') is null then
        -- How long a model keeps the worker while others wait. Whoever has chosen another turn keeps it.
        perform pushq.set_turn('foreman', '15 s');
    end if;
    -- Each change of a state is an event, and events are told: see "Webhooks" below.
    perform pushq.keep_all_events('foreman');
    -- A login named pushq has the schema pushq first on its search path, and would find pushq.jobs for `jobs`.
    if session_user = 'pushq' then
        execute format('alter role pushq in database %I set search_path = public', current_database());
    end if;
end
$$;


-- Ids ------------------------------------------------------------------------------------------------------------

-- The uuid in pushq of an old id, which is any text: the id itself, if it is a uuid as PostgreSQL writes one, else
-- uuid5(NAMESPACE_URL, 'foreman:' || id), of RFC 9562. PostgreSQL has no SHA-1 of its own.
create or replace function public.foreman_uuid(id text) returns uuid
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    whole constant bigint := 4294967295;
    message bytea := decode('6ba7b8119dad11d180b400c04fd430c8', 'hex') || convert_to('foreman:' || id, 'utf8');
    bits constant bigint := octet_length(message) * 8;
    words text;
    w bigint[];
    a bigint; b bigint; c bigint; d bigint; e bigint; f bigint; k bigint; turned bigint;
    h0 bigint := 1732584193; h1 bigint := 4023233417; h2 bigint := 2562383102; h3 bigint := 271733878; h4 bigint := 3285377520;
begin
    if id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
        return id::uuid;
    end if;
    message := message || '\x80';
    message := message || decode(repeat('00', (120 - octet_length(message) % 64) % 64), 'hex') || int8send(bits);
    words := encode(message, 'hex');
    for block in 0 .. octet_length(message) / 64 - 1 loop
        for t in 0 .. 15 loop
            w[t] := ('x' || substr(words, block * 128 + t * 8 + 1, 8))::bit(32)::bigint;
        end loop;
        for t in 16 .. 79 loop
            turned := w[t - 3] # w[t - 8] # w[t - 14] # w[t - 16];
            w[t] := ((turned << 1) | (turned >> 31)) & whole;
        end loop;
        a := h0; b := h1; c := h2; d := h3; e := h4;
        for t in 0 .. 79 loop
            case t / 20
                when 0 then f := (b & c) | ((whole # b) & d); k := 1518500249;
                when 1 then f := (b # c) # d; k := 1859775393;
                when 2 then f := ((b & c) | (b & d)) | (c & d); k := 2400959708;
                else f := (b # c) # d; k := 3395469782;
            end case;
            turned := ((((a << 5) | (a >> 27)) & whole) + f + e + k + w[t]) & whole;
            e := d; d := c; c := ((b << 30) | (b >> 2)) & whole; b := a; a := turned;
        end loop;
        h0 := (h0 + a) & whole; h1 := (h1 + b) & whole; h2 := (h2 + c) & whole; h3 := (h3 + d) & whole; h4 := (h4 + e) & whole;
    end loop;
    -- The first 16 bytes, with the version and the variant.
    h1 := (h1 & 4294905855) | 20480;
    h2 := (h2 & 1073741823) | 2147483648;
    return (lpad(to_hex(h0), 8, '0') || lpad(to_hex(h1), 8, '0') || lpad(to_hex(h2), 8, '0') || lpad(to_hex(h3), 8, '0'))::uuid;
end
$$;


-- Indexes --------------------------------------------------------------------------------------------------------

-- New days get the indexes by themselves. No other queue pays. The planner cannot guess how few jobs are of this queue, where the
-- condition is a CASE: a condition on queue alone would, as long as there are no statistics, let a statement that looks for something
-- else read a whole index.

-- For one job. With the status, the index seems to find fewer rows than the others, also without statistics.
create index if not exists foreman_by_id on pushq.jobs (
    (case when substr(id::text, 15, 1) = '5' and correlation_id is not null then correlation_id else id::text end), status)
where case queue when 'foreman' then true end is not null;
-- For lists of a state, and for what has expired.
create index if not exists foreman_by_state on pushq.jobs (
    (case status when 'queued' then 'queued' when 'running' then 'running' when 'succeeded' then 'done' else 'failed' end), finished_at)
where case queue when 'foreman' then true end is not null;


-- The views ------------------------------------------------------------------------------------------------------

-- Artifacts that the app attaches by INSERT. Those of handlers lie in pushq.artifacts. job_id: the job's uuid.
create table if not exists public.foreman_artifacts (
    id uuid not null default pushq.uuidv7(),
    job_id uuid not null,
    name text not null,
    content_type text not null,
    data bytea not null,
    created_at timestamptz not null default now(),
    primary key (job_id, name)
);

create or replace view public.jobs as
-- What waits.
select
    case when substr(id::text, 15, 1) = '5' and correlation_id is not null then correlation_id else id::text end as id,
    affinity as model,
    payload -> 'payload' as payload,
    'queued'::text as state,
    null::jsonb as result,
    null::text as error,
    failures as attempt,
    coalesce(max_attempts, 0) as max_attempts,
    payload ->> 'state_webhook_url' as state_webhook_url,
    enqueued_at as created_at,
    greatest(enqueued_at, started_at) as updated_at,
    started_at,
    null::timestamptz as completed_at
from pushq.jobs_unfinished
where case queue when 'foreman' then true end is not null and task = 'foreman.chat'
and case status when 'queued' then 'queued' when 'running' then 'running' when 'succeeded' then 'done' else 'failed' end = 'queued'
union all
-- What runs.
select
    case when substr(id::text, 15, 1) = '5' and correlation_id is not null then correlation_id else id::text end,
    affinity,
    payload -> 'payload',
    case progress ->> 'phase' when 'loading' then 'loading' else 'working' end,
    null, null,
    failures,
    coalesce(max_attempts, 0),
    payload ->> 'state_webhook_url',
    enqueued_at,
    greatest(enqueued_at, started_at),
    started_at,
    null
from pushq.jobs_unfinished
where case queue when 'foreman' then true end is not null and task = 'foreman.chat'
and case status when 'queued' then 'queued' when 'running' then 'running' when 'succeeded' then 'done' else 'failed' end = 'running'
union all
-- What has ended. The last failure of a failed job was not retried; a job that has crashed too often has no such failure.
select
    case when substr(id::text, 15, 1) = '5' and correlation_id is not null then correlation_id else id::text end,
    affinity,
    payload -> 'payload',
    case status when 'queued' then 'queued' when 'running' then 'running' when 'succeeded' then 'done' else 'failed' end,
    result,
    case status when 'failed' then coalesce(error, 'failed') when 'cancelled' then coalesce(error, 'cancelled') end,
    greatest(failures - (status = 'failed' and crashes < 3)::int, 0),
    coalesce(max_attempts, 0),
    payload ->> 'state_webhook_url',
    enqueued_at,
    greatest(enqueued_at, started_at, finished_at),
    started_at,
    finished_at
from pushq.jobs
where case queue when 'foreman' then true end is not null and task = 'foreman.chat' and finished_on < 'infinity';

alter view public.jobs
    alter column state set default 'queued',
    alter column attempt set default 0,
    alter column max_attempts set default 0;

-- From a job to its artifacts, so that every statement which names jobs finds them by an index. A handler's artifact stands before an
-- attached one of the same name.
create or replace view public.artifacts as
select
    artifact.id,
    case when substr(job.id::text, 15, 1) = '5' and job.correlation_id is not null then job.correlation_id else job.id::text end
        as job_id,
    artifact.name,
    artifact.content_type,
    coalesce(artifact.data, (
        select coalesce(string_agg(piece.data, '' order by piece.place), '')
        from pushq.artifact_pieces as piece
        where piece.artifact_id = artifact.id and piece.day = artifact.day)) as data,
    artifact.size,
    artifact.created_at
from pushq.jobs as job
cross join lateral (
    select its.id, its.name, its.content_type, null::bytea as data, its.day, its.size, its.created_at
    from pushq.artifacts as its
    where its.job_id = job.id
    union all
    select
        attached.id, attached.name, attached.content_type, attached.data, null, octet_length(attached.data), attached.created_at
    from public.foreman_artifacts as attached
    where attached.job_id = job.id
    and not exists (select from pushq.artifacts as its where its.job_id = attached.job_id and its.name = attached.name)
) as artifact
where case job.queue when 'foreman' then true end is not null and job.task = 'foreman.chat';


-- Webhooks -------------------------------------------------------------------------------------------------------

-- Tells a job's state_webhook_url a state, in the old body's shape: {"id": the old id, "state": …}. The delivery is one of pushq's, written in
-- the transaction of the change, and sent by the supervisor's webhooks. number: of the event, in the order of which the job's states
-- are told.
create or replace function public.foreman_tell(job_id uuid, number bigint, state text, instant timestamptz, error text) returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into pushq.jobs (task, queue, tenant_id, correlation_id, unique_key, max_attempts, payload)
    select
        'pushq.webhook', 'pushq.webhooks', job.tenant_id, job.id,
        pushq.deliveries_of(job.id, 'url') || lpad(foreman_tell.number::text, 19, '0'), 12,
        jsonb_build_object(
            'url', job.payload ->> 'state_webhook_url', 'body', 'flat', 'event', foreman_tell.number,
            'type', 'job.' || foreman_tell.state, 'timestamp', foreman_tell.instant,
            'data', jsonb_strip_nulls(jsonb_build_object(
                'id', case when substr(job.id::text, 15, 1) = '5' and job.correlation_id is not null
                    then job.correlation_id else job.id::text end,
                'status', foreman_tell.state, 'model', job.affinity, 'error', foreman_tell.error,
                'created_at', job.enqueued_at, 'updated_at', foreman_tell.instant)))
    from (
        select its.id, its.tenant_id, its.correlation_id, its.affinity, its.payload, its.enqueued_at
        from pushq.jobs_unfinished as its
        where its.id = foreman_tell.job_id and its.queue = 'foreman' and its.task = 'foreman.chat'
        union all
        (
            select its.id, its.tenant_id, its.correlation_id, its.affinity, its.payload, its.enqueued_at
            from pushq.jobs as its
            where its.id = foreman_tell.job_id and its.finished_on = pushq.current_day()
            and its.queue = 'foreman' and its.task = 'foreman.chat'
            order by its.finished_at desc
            limit 1
        )
        limit 1
    ) as job
    -- What is no URL cannot be a webhook: a job that came into pushq.jobs itself may have anything.
    where pushq.is_webhook_url(job.payload ->> 'state_webhook_url')
    on conflict do nothing;
end
$$;

-- Deletes the artifacts of jobs, those of handlers too: a new job with the id has none of them.
create or replace function public.foreman_forget_artifacts(jobs uuid[]) returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pushq.delete_artifact_pieces(artifact.id, artifact.day) from pushq.artifacts as artifact where artifact.job_id = any(jobs);
    delete from pushq.artifacts as artifact where artifact.job_id = any(jobs);
    delete from public.foreman_artifacts as attached where attached.job_id = any(jobs);
end
$$;

-- Deletes jobs that ended more than so many seconds ago, with their artifacts, and returns how many. At most 200 at a time, since the
-- worker waits meanwhile; another job goes on with what is left. What somebody has locked stays for the next time.
create or replace function public.foreman_expire(seconds float8) returns int
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    ids uuid[];
begin
    ids := array(
        select job.id
        from pushq.jobs as job
        where case job.queue when 'foreman' then true end is not null and job.finished_on < 'infinity'
        and case job.status when 'queued' then 'queued' when 'running' then 'running' when 'succeeded' then 'done' else 'failed' end
            in ('done', 'failed')
        and job.finished_at < now() - seconds * interval '1 second'
        limit 200
        for update skip locked);
    perform public.foreman_forget_artifacts(ids);
    delete from pushq.jobs as job where job.id = any(ids) and job.queue = 'foreman' and job.finished_on < 'infinity';
    if cardinality(ids) = 200 then
        insert into pushq.jobs (task, queue, payload)
        values ('foreman.expire', 'foreman', jsonb_build_object('older_than', seconds));
    else
        -- Attached to jobs that pushq's retention has taken.
        delete from public.foreman_artifacts as attached
        where attached.created_at < now() - seconds * interval '1 second'
        and not exists (select from pushq.jobs as job where job.id = attached.job_id offset 0);
    end if;
    return cardinality(ids);
end
$$;

create or replace function public.foreman_tell_event() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    state text := case
        when new.kind = 'phase' then new.detail ->> 'phase'
        when new.became = 'queued' then 'queued'
        when new.became = 'succeeded' then 'done'
        else 'failed'
    end;
begin
    if state in ('queued', 'loading', 'working', 'done', 'failed') then
        perform public.foreman_tell(new.job_id, new.id, state, new.at, new.error);
    end if;
    if new.kind = 'succeeded' then
        perform public.foreman_expire((job.result ->> 'older_than')::float8)
        from pushq.jobs as job
        where job.id = new.job_id and job.finished_on = pushq.current_day() and job.queue = 'foreman' and job.task = 'foreman.expire';
    end if;
    return null;
end
$$;

do $$
begin
    if not exists (select from pg_trigger where tgrelid = 'pushq.job_events'::regclass and tgname = 'foreman_tell_event') then
        create trigger foreman_tell_event
        after insert on pushq.job_events
        for each row
        -- A claim is told when the handler says whether it loads or works. An INSERT is told by foreman_jobs_write.
        when (
            new.kind = 'phase'
            or new.kind <> 'inserted' and new.was is distinct from new.became
            and new.became in ('queued', 'succeeded', 'failed', 'cancelled'))
        execute function public.foreman_tell_event();
    end if;
end
$$;


-- Jobs -----------------------------------------------------------------------------------------------------------

-- What an INSERT or DELETE of a job does. An UPDATE says what does it now.
create or replace function public.foreman_jobs_write() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    its_uuid uuid;
    wrong text;
    held uuid;
    gone record;
    its_payload jsonb;
    born timestamptz;
begin
    if tg_op = 'UPDATE' then
        raise feature_not_supported using
            message = 'a job is not changed by UPDATE of the view jobs: the worker writes state, attempt, result and times by itself',
            hint = 'pushq.cancel(foreman_uuid(id)) and pushq.retry(foreman_uuid(id)) change a job.';
    elsif tg_op = 'DELETE' then
        its_uuid := public.foreman_uuid(old.id);
        for _ in 1 .. 100 loop
            delete from pushq.jobs as job where job.id = its_uuid and job.queue = 'foreman'
            returning job.status, job.token into gone;
            if found then
                if gone.status = 'running' then
                    perform pushq.recall(its_uuid, gone.token);  -- the pool stops the handler
                end if;
                perform public.foreman_forget_artifacts(array[its_uuid]);
                return old;
            end if;
            exit when not exists (select from pushq.jobs as job where job.id = its_uuid and job.queue = 'foreman');
            -- The job has finished between the two statements: its row stands in another place.
        end loop;
        return null;
    end if;

    if new.model is null then
        raise not_null_violation using
            schema = 'public', table = 'jobs', column = 'model',
            message = 'null value in column "model" of relation "jobs" violates not-null constraint';
    end if;
    new.id := coalesce(new.id, pushq.uuidv7()::text);
    new.state := coalesce(new.state, 'queued');
    new.attempt := coalesce(new.attempt, 0);
    new.max_attempts := coalesce(new.max_attempts, 0);
    new.created_at := coalesce(new.created_at, now());
    wrong := case
        when length(new.id) not between 1 and 200 then format('an id has 1 to 200 characters, not %s', length(new.id))
        when length(new.model) not between 1 and 190 then format('a model has 1 to 190 characters, not %s', length(new.model))
        when new.state not in ('queued', 'loading', 'working', 'done', 'failed')
            then format('state is queued, loading, working, done or failed, not %s', left(new.state, 100))
        when new.attempt not between 0 and 10000 then format('attempt is a number from 0 to 10000, not %s', new.attempt)
        when new.max_attempts not between 0 and 10000
            then format('max_attempts is a number from 0 to 10000, not %s', new.max_attempts)
        when new.state not in ('done', 'failed') and not pushq.is_webhook_url(nullif(new.state_webhook_url, ''))
            then 'state_webhook_url is a URL of http or https, in ASCII, of at most 2000 characters'
        when new.created_at not between '0001-01-01 00:00+00' and '9999-12-31 00:00+00' then 'created_at is beyond the years 1 to 9999'
    end;
    if wrong is not null then
        raise check_violation using schema = 'public', table = 'jobs', message = wrong;
    end if;

    its_uuid := public.foreman_uuid(new.id);
    its_payload := jsonb_build_object('model', new.model)
        || case when new.payload is null then '{}' else jsonb_build_object('payload', new.payload) end
        || case when new.state_webhook_url is null then '{}' else jsonb_build_object('state_webhook_url', new.state_webhook_url) end;
    born := greatest(new.created_at, '1970-01-02 00:00+00');
    -- Two that insert one id at once meet at this INSERT: ids of unfinished jobs are unique. Whoever comes second waits, and then
    -- finds the id taken, or the first job in its day. What had begun begins anew.
    if not exists (select from pushq.jobs where id = its_uuid and finished_on = 'infinity') then
        insert into pushq.jobs (
            id, task, queue, payload, enqueued_at, run_at, max_attempts, attempt, failures, correlation_id, affinity)
        values (
            its_uuid, 'foreman.chat', 'foreman', its_payload, new.created_at, least(born, now()), nullif(new.max_attempts, 0),
            new.attempt, new.attempt, case when new.id <> its_uuid::text then new.id end, new.model)
        on conflict do nothing
        returning id into held;
    end if;
    if held is null or exists (select from pushq.jobs where id = its_uuid and finished_on < 'infinity') then
        raise unique_violation using
            schema = 'public', table = 'jobs', constraint = 'jobs_pkey',
            message = 'duplicate key value violates unique constraint "jobs_pkey"',
            detail = format('Key (id)=(%s) already exists.', new.id);
    end if;

    if new.state in ('done', 'failed') then
        delete from pushq.jobs_unfinished where id = its_uuid;
        insert into pushq.jobs (
            id, task, queue, payload, enqueued_at, run_at, max_attempts, attempt, failures, correlation_id, affinity, status,
            started_at, finished_at, error, result, finished_on)
        values (
            its_uuid, 'foreman.chat', 'foreman', its_payload, new.created_at, least(born, now()), nullif(new.max_attempts, 0),
            new.attempt + 1, new.attempt + (new.state = 'failed')::int, case when new.id <> its_uuid::text then new.id end, new.model,
            case new.state when 'done' then 'succeeded' else 'failed' end, new.started_at,
            coalesce(new.completed_at, new.updated_at, now()), case new.state when 'failed' then new.error end, new.result,
            pushq.current_day());
    else
        perform public.foreman_tell(its_uuid, nextval('pushq.job_event_ids'), 'queued', clock_timestamp(), null);
    end if;

    select its.* into new from public.jobs as its where its.id = new.id;
    return new;
end
$$;

create or replace trigger foreman_jobs_write
instead of insert or update or delete on public.jobs
for each row execute function public.foreman_jobs_write();


-- Artifacts ------------------------------------------------------------------------------------------------------

create or replace function public.foreman_artifacts_write() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    its_uuid uuid := public.foreman_uuid(case tg_op when 'DELETE' then old.job_id else new.job_id end);
    missing text;
    wrong text;
    gone record;
    made uuid;
    is_there boolean;
begin
    if tg_op = 'UPDATE' then
        raise feature_not_supported using
            message = 'an artifact is not changed by UPDATE of the view artifacts',
            hint = 'DELETE the artifact, and INSERT another.';
    elsif tg_op = 'DELETE' then
        delete from pushq.artifacts as its where its.id = old.id returning its.id, its.day into gone;
        if found then
            perform pushq.delete_artifact_pieces(gone.id, gone.day);
            return old;
        end if;
        delete from public.foreman_artifacts as attached where attached.job_id = its_uuid and attached.name = old.name;
        return case when found then old end;
    end if;

    missing := case when new.job_id is null then 'job_id' when new.name is null then 'name' when new.data is null then 'data' end;
    if missing is not null then
        raise not_null_violation using
            schema = 'public', table = 'artifacts', column = missing,
            message = format('null value in column "%s" of relation "artifacts" violates not-null constraint', missing);
    end if;
    new.content_type := coalesce(nullif(new.content_type, ''), 'application/octet-stream');
    wrong := case
        when not pushq.is_artifact_name(new.name)
            then 'the name of an artifact has 1 to 200 characters, at most 255 bytes, without /, \ and control characters'
        when not pushq.is_content_type(new.content_type)
            then format('%L is no content type; give one like image/png', left(new.content_type, 100))
        when octet_length(new.data) > 104857600 then 'an artifact has at most 100 MiB'
    end;
    if wrong is not null then
        raise check_violation using schema = 'public', table = 'artifacts', message = wrong;
    end if;
    -- Whoever deletes the job waits, and then deletes the artifact too. A job that ends meanwhile is found in its new place.
    for _ in 1 .. 3 loop
        perform from pushq.jobs as job where job.id = its_uuid and job.queue = 'foreman' and job.task = 'foreman.chat' for key share;
        is_there := found;
        exit when is_there;
    end loop;
    if not is_there then
        raise foreign_key_violation using
            schema = 'public', table = 'artifacts', constraint = 'artifacts_job_id_fkey',
            message = 'insert or update on table "artifacts" violates foreign key constraint "artifacts_job_id_fkey"',
            detail = format('Key (job_id)=(%s) is not present in table "jobs".', left(new.job_id, 200));
    end if;
    new.id := coalesce(new.id, pushq.uuidv7());
    new.size := octet_length(new.data);
    new.created_at := coalesce(new.created_at, now());
    if not exists (select from pushq.artifacts as its where its.job_id = its_uuid and its.name = new.name) then
        insert into public.foreman_artifacts as attached (id, job_id, name, content_type, data, created_at)
        values (new.id, its_uuid, new.name, new.content_type, new.data, new.created_at)
        on conflict do nothing
        returning attached.id into made;
    end if;
    if made is null then
        raise unique_violation using
            schema = 'public', table = 'artifacts', constraint = 'artifacts_job_id_name_key',
            message = 'duplicate key value violates unique constraint "artifacts_job_id_name_key"',
            detail = format('Key (job_id, name)=(%s, %s) already exists.', new.job_id, new.name);
    end if;
    return new;
end
$$;

create or replace trigger foreman_artifacts_write
instead of insert or update or delete on public.artifacts
for each row execute function public.foreman_artifacts_write();


-- Rights ---------------------------------------------------------------------------------------------------------

-- Nobody hangs these functions on a table of his own, and nobody tells what did not happen.
revoke execute on function
    public.foreman_jobs_write(), public.foreman_artifacts_write(), public.foreman_tell_event(),
    public.foreman_tell(uuid, bigint, text, timestamptz, text), public.foreman_expire(float8), public.foreman_forget_artifacts(uuid[])
    from public;

-- Whoever could use the tables may use the views.
do $$
declare
    command text;
begin
    for command in
        select format(
            'grant %s on public.%I to %s', its.privilege_type, made.name,
            case its.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(its.grantee)) end)
        from (values ('jobs'), ('artifacts')) as made (name)
        join pg_class on pg_class.oid = to_regclass(format('public.%I', made.name || '_before_pushq')),
        aclexplode(coalesce(relacl, acldefault('r', relowner))) as its
        where its.privilege_type in ('SELECT', 'INSERT', 'DELETE')
    loop
        execute command;
    end loop;
end
$$;

commit;
