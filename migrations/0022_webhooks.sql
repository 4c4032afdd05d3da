-- Webhooks: receivers over HTTP are told what happens to jobs. And claims hand out the producer's traceparent.
--
-- A delivery is written in the transaction of what it tells, and is a job itself: task pushq.webhook in the queue pushq.webhooks, run
-- by workers of its own (pushq/webhooks). Its payload is
--
--     {"webhook": ID or "url": URL, "event": number, "type": "job.failed", "timestamp": "…", "data": {"id": …, "status": …, …}}
--
-- What a subscription tells is an event: a job that a subscription covers keeps all its events, as if its queue had all_events. A
-- job's own webhook_url is told the end alone, without an event. A job that neither has pays nothing.
--
-- A receiver's deliveries of one job are in the order of their numbers, since the job's row is locked when the number is drawn. The
-- key of a delivery holds job, receiver and number, so that the index of keys finds the deliveries of a job.
--
-- A delivery belongs to the tenant of the webhook, or of the job with the URL. Only pushq writes deliveries, since they are signed.

insert into pushq.migrations (version, name) values (22, '0022_webhooks');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 22;


-- Subscriptions --------------------------------------------------------------------------------------------------

create function pushq.are_secrets(secrets text[]) returns boolean
language sql immutable parallel safe
return cardinality(secrets) <= 5 and coalesce(array_ndims(secrets), 1) = 1 and (
    select coalesce(bool_and(coalesce(secret ~ '^whsec_[A-Za-z0-9+/]{32,100}={0,2}$', false)), true)
    from unnest(secrets) as secret);

create table pushq.webhooks (
    id uuid primary key default pushq.uuidv7(),
    tenant_id text constraint webhooks_tenant_id_has_1_to_200_characters check (length(tenant_id) between 1 and 200),
    queue text constraint webhooks_queue_has_1_to_200_characters check (length(queue) between 1 and 200),
    task text constraint webhooks_task_has_1_to_200_characters check (length(task) between 1 and 200),
    statuses text[] not null default '{succeeded,failed,cancelled}'
        constraint webhooks_statuses_are_known check (
            cardinality(statuses) > 0 and array_ndims(statuses) = 1
            and statuses <@ '{queued,running,succeeded,failed,cancelled,phase}'),
    url text not null constraint webhooks_url_is_http_of_at_most_2000_characters check (pushq.is_webhook_url(url)),
    secrets text[] not null default '{}'
        constraint webhooks_secrets_are_up_to_5_of_whsec check (pushq.are_secrets(secrets)),
    body text not null default 'standard' constraint webhooks_body_is_standard_or_flat check (body in ('standard', 'flat')),
    paused_at timestamptz,
    created_at timestamptz not null default now()
);
create index webhooks_that_tell on pushq.webhooks (tenant_id) where paused_at is null;

comment on table pushq.webhooks is 'Receivers that are told what happens to jobs: plain rows, which an application may write.';
comment on column pushq.webhooks.tenant_id is 'Whose jobs are told. Null: everybody''s.';
comment on column pushq.webhooks.queue is 'The queue whose jobs are told. Null: any.';
comment on column pushq.webhooks.task is 'The task whose jobs are told. Null: any.';
comment on column pushq.webhooks.statuses is 'What is told: queued, running, succeeded, failed, cancelled; phase: each new phase.';
comment on column pushq.webhooks.secrets is
    'Keys that sign deliveries, the newest first: whsec_ and 24 to 75 random bytes in base64. All of them sign.';
comment on column pushq.webhooks.body is 'standard: {"type", "timestamp", "data"}. flat: the data with id and state.';
comment on column pushq.webhooks.paused_at is 'Since when nothing is told, by hand or because the receiver answered 410 Gone.';

-- The queues with jobs whose transitions are all kept as events; an empty name stands for any queue. Claims read no other table.
-- A copy of what pushq.queues and pushq.webhooks say.
create table pushq.noted_queues (queue text primary key);
insert into pushq.noted_queues select name from pushq.queues where all_events;

-- Not zero: some webhook tells that a job was queued, so that each INSERT looks. A sequence, since INSERTs of any isolation level see
-- the newest value at once, and to read the value costs next to nothing.
create sequence pushq.inserts_noted as bigint minvalue 0 start 0;
select setval('pushq.inserts_noted', 0);
grant select on sequence pushq.inserts_noted to public;

create or replace function pushq.copy_noted_queues() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    lock table pushq.noted_queues in share row exclusive mode;  -- one at a time, so that each sees what the others have done
    -- Each change of a job may have as many deliveries.
    if exists (
        select from pushq.webhooks as hook where hook.tenant_id is not null group by hook.tenant_id having count(*) > 100)
    then
        raise exception using
            errcode = 'check_violation', schema = 'pushq', table = 'webhooks',
            constraint = 'webhooks_of_a_tenant_are_at_most_100',
            message = 'a tenant may have 100 rows in pushq.webhooks; delete some first';
    end if;
    with noted as materialized (
        select name as queue from pushq.queues where all_events
        union
        select coalesce(queue, '') from pushq.webhooks where paused_at is null
    ),
    forgotten as (
        delete from pushq.noted_queues as known where not exists (select from noted where noted.queue = known.queue)
    )
    insert into pushq.noted_queues select queue from noted on conflict do nothing;
    if exists (select from pushq.webhooks where paused_at is null and 'queued' = any(statuses)) then
        perform setval('pushq.inserts_noted', 1);
    end if;
    return null;
end
$$;
create trigger webhooks_copy_noted_queues
after insert or delete or update or truncate on pushq.webhooks
for each statement execute function pushq.copy_noted_queues();

-- Puts the sequence back to zero when no webhook tells that a job was queued any more. Not in the trigger: a sequence keeps a value
-- whose transaction is rolled back, and a webhook would be forgotten.
create function pushq.rest_inserts() returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
begin
    if pg_sequence_last_value('pushq.inserts_noted') > 0
        and not exists (select from pushq.webhooks where paused_at is null and 'queued' = any(statuses))
    then
        lock table pushq.noted_queues in share row exclusive mode;
        if not exists (select from pushq.webhooks where paused_at is null and 'queued' = any(statuses)) then
            perform setval('pushq.inserts_noted', 0);
        end if;
    end if;
exception
    when lock_not_available then
        null;  -- somebody changes webhooks
end
$$;

-- The webhooks that tell of a job of this queue, task and tenant. Deliveries are told to nobody.
create function pushq.webhooks_of(queue text, task text, tenant_id text) returns setof pushq.webhooks
language sql stable
begin atomic
    select hook.*
    from pushq.webhooks as hook
    where hook.paused_at is null and webhooks_of.queue <> 'pushq.webhooks'
    and (hook.tenant_id is null or hook.tenant_id = webhooks_of.tenant_id)
    and (hook.queue is null or hook.queue = webhooks_of.queue)
    and (hook.task is null or hook.task = webhooks_of.task);
end;

-- Whether every transition of the job is an event.
create function pushq.is_noted(queue text, task text, tenant_id text) returns boolean
language sql stable
begin atomic
    select exists (select from pushq.noted_queues as noted where noted.queue in (is_noted.queue, '')) and (
        exists (select from pushq.queues as known where known.name = is_noted.queue and known.all_events)
        or exists (select from pushq.webhooks_of(is_noted.queue, is_noted.task, is_noted.tenant_id)));
end;


-- Deliveries -----------------------------------------------------------------------------------------------------

-- Deliveries of a job to a receiver begin with the same characters, and go on with their number in 19 digits.
create function pushq.deliveries_of(job uuid, receiver text) returns text
language sql immutable parallel safe
return format('pushq.webhooks %s %s ', job, receiver);

-- What a delivery tells of a job. is_over: its end is told, with its result, if that is small.
create function pushq.told_of_job(
    id uuid, task text, queue text, status text, attempt int, error text, tenant_id text, correlation_id text,
    enqueued_at timestamptz, started_at timestamptz, finished_at timestamptz, result jsonb)
returns jsonb
language sql stable parallel safe
return jsonb_strip_nulls(jsonb_build_object(
    'id', id, 'task', task, 'queue', queue, 'status', status, 'attempt', attempt, 'error', error, 'tenant_id', tenant_id,
    'correlation_id', correlation_id, 'enqueued_at', enqueued_at, 'started_at', started_at, 'finished_at', finished_at))
    || case when pg_column_size(result) <= 16384 then jsonb_build_object('result', result) else '{}' end;

-- Writes the deliveries of events. numbers: the events' ids. told: the statuses to tell, or phase; null: nothing. details: as in
-- pushq.job_events.
create function pushq.deliver(
    numbers bigint[], ids uuid[], told text[], instants timestamptz[], attempts int[], errors text[], details jsonb[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into pushq.jobs (task, queue, tenant_id, correlation_id, unique_key, max_attempts, payload)
    select
        'pushq.webhook', 'pushq.webhooks', hook.tenant_id, job.id,
        pushq.deliveries_of(job.id, hook.id::text) || lpad(given.number::text, 19, '0'), 12,
        jsonb_build_object(
            'webhook', hook.id, 'event', given.number, 'type', 'job.' || given.told, 'timestamp', given.instant,
            'data', coalesce(given.detail, '{}') || pushq.told_of_job(
                job.id, job.task, job.queue, case given.told when 'phase' then 'running' else given.told end, given.attempt,
                given.error, job.tenant_id, job.correlation_id, job.enqueued_at, job.started_at,
                case when given.told = job.status then job.finished_at end, case when given.told = job.status then job.result end))
    from unnest(
        deliver.numbers, deliver.ids, deliver.told, deliver.instants, deliver.attempts, deliver.errors, deliver.details
    ) with ordinality as given (number, id, told, instant, attempt, error, detail, place)
    cross join lateral (
        select
            its.id, its.task, its.queue, its.tenant_id, its.correlation_id, its.status, its.enqueued_at, its.started_at,
            its.finished_at, its.result
        from pushq.jobs_unfinished as its
        where its.id = given.id
        union all
        (
            select
                its.id, its.task, its.queue, its.tenant_id, its.correlation_id, its.status, its.enqueued_at, its.started_at,
                its.finished_at, its.result
            from pushq.jobs as its
            where its.id = given.id and its.finished_on = pushq.current_day()
            order by its.finished_at desc
            limit 1
        )
        limit 1
    ) as job
    cross join lateral pushq.webhooks_of(job.queue, job.task, job.tenant_id) as hook
    where given.told = any(hook.statuses)
    order by given.place, hook.id
    on conflict do nothing;  -- a producer's job has the key
end
$$;

-- Writes the deliveries of the ends of these jobs, which have ended a moment ago, to their own URLs.
create function pushq.deliver_to_urls(ids uuid[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into pushq.jobs (task, queue, tenant_id, correlation_id, unique_key, max_attempts, payload)
    select
        'pushq.webhook', 'pushq.webhooks', job.tenant_id, job.id,
        pushq.deliveries_of(job.id, 'url') || lpad(numbered.number::text, 19, '0'), 12,
        jsonb_build_object(
            'url', job.webhook_url, 'event', numbered.number, 'type', 'job.' || job.status, 'timestamp', job.finished_at,
            'data', pushq.told_of_job(
                job.id, job.task, job.queue, job.status, job.attempt, job.error, job.tenant_id, job.correlation_id,
                job.enqueued_at, job.started_at, job.finished_at, job.result))
    from unnest(deliver_to_urls.ids) as given (id)
    cross join lateral (
        select its.*
        from pushq.jobs as its
        where its.id = given.id and its.finished_on = pushq.current_day()
        order by its.finished_at desc
        limit 1
    ) as job
    cross join lateral (select nextval('pushq.job_event_ids') as number offset 0) as numbered
    where job.queue <> 'pushq.webhooks'
    on conflict do nothing;
end
$$;


-- Events that are told -------------------------------------------------------------------------------------------

-- As in 0013_events, and told to webhooks.
create or replace function pushq.note_changes(
    places int[], noted boolean[], ids uuid[], tenants text[], attempts int[], was text[], kinds text[], delays float8[],
    errors text[], tracebacks text[], actor text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    told record;
begin
    with noted as (
        insert into pushq.job_events as event (
            job_id, tenant_id, kind, was, became, attempt, actor, error, traceback, detail, tx, day)
        select
            given.id, given.tenant, coalesce(given.kind, 'succeeded'),
            case when given.kind is distinct from 'inserted' then coalesce(given.was, 'running') end,
            case
                when given.kind is null then 'succeeded'
                when given.kind in ('succeeded', 'failed', 'cancelled') then given.kind
                when given.kind in ('claimed', 'detached', 'cancelling') then 'running'
                else 'queued'
            end,
            given.attempt, note_changes.actor, given.error, given.traceback,
            case when given.delay > 0 then jsonb_build_object('delay', given.delay) end,
            (select pg_current_xact_id()::text::bigint), (select pushq.current_day())
        from unnest(
            note_changes.ids, note_changes.tenants, note_changes.attempts, note_changes.was, note_changes.kinds,
            note_changes.delays, note_changes.errors, note_changes.tracebacks, note_changes.noted
        ) with ordinality as given (id, tenant, attempt, was, kind, delay, error, traceback, is_noted, place)
        where (given.is_noted or cardinality(note_changes.noted) = 0)
        and (note_changes.places is null or given.place = any(note_changes.places))
        order by given.place
        returning
            event.id, event.job_id, nullif(event.became, event.was) as told, event.at, event.attempt, event.error, event.detail
    )
    select
        array_agg(noted.id) as numbers, array_agg(noted.job_id) as ids, array_agg(noted.told) as told,
        array_agg(noted.at) as instants, array_agg(noted.attempt) as attempts, array_agg(noted.error) as errors,
        array_agg(noted.detail) as details
    into told
    from noted;
    if exists (select from pushq.webhooks as hook where hook.paused_at is null) then
        perform pushq.deliver(
            told.numbers, told.ids, told.told, told.instants, told.attempts, told.errors, told.details);
    end if;
end
$$;

-- As in 0014_sorted, and told to webhooks.
create or replace function pushq.note_phases(ids uuid[], tokens uuid[], phases text[]) returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    told record;
begin
    with noted as (
        insert into pushq.job_events as event (job_id, tenant_id, kind, was, became, attempt, actor, detail)
        select
            given.id, job.tenant_id, 'phase', job.status, job.status, job.attempt, job.supervisor,
            jsonb_build_object('phase', given.phase)
        from unnest(note_phases.ids, note_phases.tokens, note_phases.phases) with ordinality as given (id, token, phase, place)
        cross join lateral (
            select its.tenant_id, its.status, its.attempt, its.supervisor
            from pushq.jobs_unfinished as its
            where its.id = given.id and its.token = given.token
            offset 0
        ) as job
        order by given.place
        returning event.id, event.job_id, event.kind, event.at, event.attempt, event.detail
    )
    select
        array_agg(noted.id) as numbers, array_agg(noted.job_id) as ids, array_agg(noted.kind) as told,
        array_agg(noted.at) as instants, array_agg(noted.attempt) as attempts, array_agg(noted.detail) as details
    into told
    from noted;
    if exists (select from pushq.webhooks as hook where hook.paused_at is null) then
        perform pushq.deliver(told.numbers, told.ids, told.told, told.instants, told.attempts, null, told.details);
    end if;
end
$$;

comment on column pushq.job_events.kind is
    'claimed, succeeded, failed, cancelled, retried, snoozed, released, detached, requeued; inserted, phase, cancelling; edited, deleted; note.';

-- Notes that a job was inserted, if a webhook tells so. Called for each INSERT while there is such a webhook, so everybody may call
-- this function, and nobody gains by doing so.
create function pushq.note_insert(id uuid) returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pushq.note_changes(
        null, '{}', array[job.id], array[job.tenant_id], array[job.attempt], null, '{inserted}', null, null, null,
        pushq.actor())
    from pushq.jobs_unfinished as job
    where job.id = note_insert.id and pushq.may_touch(job.tenant_id)
    -- Not for a retry, which has an event of its own.
    and current_setting('pushq.events', true) is distinct from 'off'
    and exists (
        select from pushq.webhooks_of(job.queue, job.task, job.tenant_id) as hook where 'queued' = any(hook.statuses))
    -- Nor twice, whoever calls.
    and not exists (
        select from pushq.job_events as event
        where event.job_id = job.id and event.day >= pushq.utc_today() - 1 and event.kind = 'inserted'
        and event.at >= job.enqueued_at);
end
$$;

do $$
begin
    execute replace(pg_get_functiondef('pushq.ring_for_inserted_job()'::regprocedure), '    return null;', $add$
    if pg_catalog.pg_sequence_last_value('pushq.inserts_noted'::pg_catalog.regclass) operator(pg_catalog.>) 0 then
        perform pushq.note_insert(new.id);
    end if;
    return null;$add$);
end
$$;


-- Nobody else writes deliveries, or takes their keys: a receiver believes what a webhook's secret has signed. Whoever may run jobs
-- may delete them.
do $$
begin
    execute replace(pg_get_functiondef('pushq.check_job()'::regprocedure), '    if broken_rule is not null then', $add$
    if (new.queue operator(pg_catalog.=) 'pushq.webhooks' or pg_catalog.starts_with(new.unique_key, 'pushq.webhooks '))
        and not pg_catalog.has_table_privilege('pushq.jobs_unfinished', 'delete')
    then
        broken_rule := 'jobs_queue_pushq_webhooks_is_for_pushq';
    end if;
    if broken_rule is not null then$add$);
end
$$;


-- Claims ---------------------------------------------------------------------------------------------------------

-- What few jobs have, as JSON text: {"checkpoint": of an earlier attempt, "traceparent": text, "all_events": true}, each only if
-- there. Null: nothing.
create function pushq.extras(progress jsonb, traceparent text, queue text, task text, tenant_id text, noted text[]) returns text
language sql stable
begin atomic
    select nullif((
        case when progress ? 'checkpoint' then jsonb_build_object('checkpoint', progress -> 'checkpoint') else '{}' end
        || case when traceparent is not null then jsonb_build_object('traceparent', traceparent) else '{}' end
        || case
            when (queue = any(noted) or '' = any(noted)) and pushq.is_noted(queue, task, tenant_id) then '{"all_events": true}'::jsonb
            else '{}'
        end)::text, '{}');
end;

-- Hands locked jobs to a pool, under the token, and writes the events of the claim. noted: what pushq.noted_queues holds. timeout
-- in seconds.
create function pushq.hand_out(ids uuid[], its_supervisor text, its_pool int, its_token uuid, noted text[])
returns table (
    id uuid, task text, queue text, payload text, attempt int, failures int, crashes int, max_attempts int,
    timeout double precision, tenant_id text, correlation_id text, token uuid, extras text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if cardinality(hand_out.ids) = 0 then
        return;
    end if;
    return query
    update pushq.jobs_unfinished as job
    set status = 'running',
        attempt = job.attempt + (job.attempt < 2147483647)::int,
        supervisor = hand_out.its_supervisor,
        pool = hand_out.its_pool,
        token = hand_out.its_token,
        started_at = clock_timestamp()
    where job.id = any(hand_out.ids)
    returning
        job.id, job.task, job.queue, pushq.claimed_payload(job.payload, job.payload_is_too_long),
        job.attempt, job.failures, job.crashes, job.max_attempts,
        extract(epoch from job.timeout)::float8, job.tenant_id, job.correlation_id, job.token,
        case
            when job.progress is not null or job.traceparent is not null or cardinality(hand_out.noted) > 0
                then pushq.extras(job.progress, job.traceparent, job.queue, job.task, job.tenant_id, hand_out.noted)
        end;
    if cardinality(hand_out.noted) > 0 then
        perform pushq.note_changes(
            null, '{}', array_agg(job.id), array_agg(job.tenant_id), array_agg(job.attempt),
            array_fill('queued'::text, array[count(*)::int]), array_fill('claimed'::text, array[count(*)::int]), null, null, null,
            hand_out.its_supervisor)
        from pushq.jobs_unfinished as job
        where job.id = any(hand_out.ids) and job.token = hand_out.its_token
        and pushq.is_noted(job.queue, job.task, job.tenant_id)
        having count(*) > 0;
    end if;
end
$$;

-- For supervisors that have run since before there were webhooks.
create or replace function pushq.claim_noting(
    ids uuid[], its_supervisor text, its_pool int, its_token uuid, with_all_events text[])
returns table (
    id uuid, task text, queue text, payload text, attempt int, failures int, crashes int, max_attempts int,
    timeout double precision, tenant_id text, correlation_id text, token uuid, all_events boolean, saved text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        job.id, job.task, job.queue, job.payload, job.attempt, job.failures, job.crashes, job.max_attempts, job.timeout,
        job.tenant_id, job.correlation_id, job.token, job.extras::jsonb ? 'all_events',
        (job.extras::jsonb -> 'checkpoint')::text
    from pushq.hand_out(
        claim_noting.ids, claim_noting.its_supervisor, claim_noting.its_pool, claim_noting.its_token,
        array(select noted.queue from pushq.noted_queues as noted)) as job;
end
$$;

-- For guests, and for supervisors that have run since before there were events.
create or replace function pushq.claim_locked(ids uuid[], its_supervisor text, its_pool int, its_token uuid)
returns table (
    id uuid, task text, queue text, payload text, attempt int, failures int, crashes int, max_attempts int,
    timeout double precision, tenant_id text, correlation_id text, token uuid)
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select
        job.id, job.task, job.queue, job.payload, job.attempt, job.failures, job.crashes, job.max_attempts, job.timeout,
        job.tenant_id, job.correlation_id, job.token
    from pushq.hand_out(
        claim_locked.ids, claim_locked.its_supervisor, claim_locked.its_pool, claim_locked.its_token,
        array(select noted.queue from pushq.noted_queues as noted)) as job;
end;


-- Outcomes -------------------------------------------------------------------------------------------------------

do $do$
declare
    -- As in 0014_sorted, and the URL and the trace.
    asked text := 'id, task, payload, queue, priority, max_attempts, timeout, unique_key, tenant_id, correlation_id, submitted_by, '
        'webhook_url, traceparent';
    past text := 'attempt, enqueued_at, supervisor, progress';
    function text;
begin
    -- As in 0014_sorted, and writes the deliveries for the URLs of jobs.
    function := $function$
create or replace function pushq.end_sorted(
    ids uuid[], tokens uuid[], began float8[], ended float8[], kinds text[], errors text[], tracebacks text[], results text[],
    out places int[], out told text[])
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    arrived timestamptz := clock_timestamp();
    to_urls uuid[];
begin
    with finished as (
        delete from pushq.jobs_unfinished as job
        where job.id = any(end_sorted.ids)
        and job.token
            is not distinct from coalesce(end_sorted.tokens[width_bucket(job.id, end_sorted.ids)], job.token)
        returning  -- qualified, since a user's own column may have the same name
            {job.asked}, {job.past}, job.waiters, job.run_at, job.failures, job.crashes, job.pool, job.token, job.started_at,
            job.error, job.traceback, width_bucket(job.id, end_sorted.ids) as place
    ),
    attempt as not materialized (
        select
            finished.*,
            coalesce(end_sorted.kinds[finished.place], 'succeeded') as kind,
            end_sorted.tokens[finished.place] is null as is_by_hand,
            greatest(
                arrived - end_sorted.began[finished.place] * interval '1 second', finished.started_at) as began_at,
            case
                when end_sorted.ended[finished.place] is null
                    then greatest(arrived, finished.started_at) - finished.started_at
                else (end_sorted.began[finished.place] - end_sorted.ended[finished.place]) * interval '1 second'
            end as ran
        from finished
    ),
    kept as (
        insert into pushq.jobs (
            {asked}, {past}, run_at, status, failures, crashes, pool, token, started_at, finished_at, error, traceback,
            result, finished_on)
        select
            {asked}, {past}, run_at, case when kind = 'crashed' then 'failed' else kind end,
            failures + (kind = 'failed')::int, crashes + (kind = 'crashed')::int, pool,
            case when kind <> 'crashed' and not is_by_hand then token end, began_at, coalesce(began_at + ran, clock_timestamp()),
            case when is_by_hand then error else end_sorted.errors[place] end,
            case when is_by_hand then traceback else end_sorted.tracebacks[place] end,
            end_sorted.results[place]::jsonb, (select pushq.current_day())
        from attempt
    ),
    tallied as (
        insert into pushq.tally_log (queue, task, outcome, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds)
        select
            case when has_label then queue else '_other' end, case when has_label then task else '_other' end,
            kind, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds
        from (
            -- Without a token, a person ends jobs in a transaction that may stay open: no label is given, since others would
            -- wait.
            select tally.*, label.task is not null or is_attempt and pushq.label(tally.queue, tally.task) as has_label
            from (
                select
                    queue, task, kind, is_attempt,
                    pushq.bucket(ran, pushq.run_bounds()) as run_bucket,
                    pushq.bucket(waited, pushq.wait_bounds()) as wait_bucket,
                    count(*) as jobs,
                    coalesce(extract(epoch from sum(ran)), 0) as run_seconds,
                    coalesce(extract(epoch from sum(waited)), 0) as wait_seconds
                from (
                    select
                        queue, task, case when kind = 'crashed' then 'failed' else kind end as kind,
                        not is_by_hand as is_attempt,
                        case when not is_by_hand then ran end as ran,
                        case when not is_by_hand then pushq.waited(run_at, enqueued_at, began_at) end as waited
                    from attempt
                ) as one
                group by queue, task, kind, is_attempt, run_bucket, wait_bucket
            ) as tally
            left join pushq.labels as label on label.queue = tally.queue and label.task = tally.task
            offset 0  -- label() once a row
        ) as labelled
    )
    select
        case when count(*) < cardinality(end_sorted.ids) then coalesce(array_agg(finished.place), '{}') end,
        array_agg(
            finished.id || ' ' || case coalesce(end_sorted.kinds[finished.place], 'succeeded')
                when 'crashed' then 'failed' else coalesce(end_sorted.kinds[finished.place], 'succeeded') end || ' '
            || array_to_string(finished.waiters, ' ')
        ) filter (where finished.waiters is not null),
        array_agg(finished.id) filter (where finished.webhook_url is not null)
    into places, told, to_urls
    from finished;
    if to_urls is not null then
        perform pushq.deliver_to_urls(to_urls);
    end if;
end
$$
$function$;
    execute replace(replace(replace(replace(function,
        '{job.asked}', regexp_replace(asked, '(\w+)', 'job.\1', 'g')), '{job.past}', regexp_replace(past, '(\w+)', 'job.\1', 'g')),
        '{asked}', asked), '{past}', past);
end
$do$;

-- As in 0014_sorted.
create or replace function pushq.give_back(
    ids uuid[], tokens uuid[], kinds text[], delays float8[], errors text[], tracebacks text[])
returns int[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    places int[];
    cancelling uuid[];
begin
    with going_on as (
        update pushq.jobs_unfinished as job
        set status = 'queued',
            token = null,
            run_at = case
                when give_back.kinds[array_position(give_back.ids, job.id)] = 'released' then job.run_at
                else clock_timestamp() + give_back.delays[array_position(give_back.ids, job.id)] * interval '1 second' end,
            failures = job.failures + (give_back.kinds[array_position(give_back.ids, job.id)] = 'retried')::int,
            error = coalesce(give_back.errors[array_position(give_back.ids, job.id)], job.error),
            traceback = case
                when give_back.errors[array_position(give_back.ids, job.id)] is null then job.traceback
                else give_back.tracebacks[array_position(give_back.ids, job.id)] end
        where job.id = any(give_back.ids) and job.token = give_back.tokens[array_position(give_back.ids, job.id)]
        returning
            array_position(give_back.ids, job.id) as place, job.id, job.queue, job.task, job.tenant_id, job.attempt,
            job.supervisor, job.apart, give_back.kinds[array_position(give_back.ids, job.id)] as kind
    ),
    tallied as (
        select pushq.tally_back('retried', array_agg(going_on.queue), array_agg(going_on.task))
        from going_on
        where going_on.kind in ('retried', 'snoozed')
    ),
    rung as (
        select pushq.ring_if_idle(touched.queue)
        from (select distinct going_on.queue from going_on) as touched
    ),
    noted as (
        select pushq.note_changes(
            null, '{}', array_agg(going_on.id), array_agg(going_on.tenant_id), array_agg(going_on.attempt), '{}',
            array_agg(going_on.kind), array_agg(give_back.delays[going_on.place]),
            array_agg(give_back.errors[going_on.place]), array_agg(give_back.tracebacks[going_on.place]),
            min(going_on.supervisor))
        from going_on
        where going_on.kind = 'retried' or pushq.is_noted(going_on.queue, going_on.task, going_on.tenant_id)
        having count(*) > 0
    )
    select
        case when count(*) < cardinality(give_back.ids) then coalesce(array_agg(going_on.place), '{}') end,
        array_agg(going_on.id order by going_on.id) filter (where going_on.apart = 'cancelling')
    into places, cancelling
    from going_on
    cross join (select count(*) from tallied) as tallying
    cross join (select count(*) from rung) as ringing
    cross join (select count(*) from noted) as noting;
    if cancelling is not null then
        perform pushq.end_jobs(
            cancelling, array_fill(null::uuid, array[cardinality(cancelling)]), null, null,
            array_fill('cancelled'::text, array[cardinality(cancelling)]), null, null, null);
    end if;
    return places;
end
$$;

-- As in 0014_sorted.
create or replace function pushq.end_jobs(
    ids uuid[], tokens uuid[], began float8[], ended float8[], kinds text[], errors text[], tracebacks text[], results text[])
returns int[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    before record;
    end_of_all record;
begin
    select
        array_agg(job.tenant_id order by given.place) as tenants,
        array_agg(job.attempt order by given.place) as attempts,
        array_agg(job.status order by given.place) as statuses,
        array_agg(case given.kind when 'crashed' then 'failed' else given.kind end order by given.place) as kinds,
        array_agg(
            coalesce(given.kind, 'succeeded') <> 'succeeded' or pushq.is_noted(job.queue, job.task, job.tenant_id)
            order by given.place) as noted,
        min(job.supervisor) as supervisor
    into before
    from unnest(end_jobs.ids, end_jobs.kinds) with ordinality as given (id, kind, place)
    left join lateral (
        select its.tenant_id, its.attempt, its.status, its.queue, its.task, its.supervisor
        from pushq.jobs_unfinished as its
        where its.id = given.id
        offset 0
    ) as job on true;

    end_of_all := pushq.end_sorted(
        end_jobs.ids, end_jobs.tokens, end_jobs.began, end_jobs.ended, end_jobs.kinds, end_jobs.errors, end_jobs.tracebacks,
        end_jobs.results);
    perform pushq.note_changes(
        end_of_all.places, before.noted, end_jobs.ids, before.tenants, before.attempts, before.statuses, before.kinds, null,
        end_jobs.errors, end_jobs.tracebacks,
        case when end_jobs.tokens[1] is null or 'crashed' = any(end_jobs.kinds) then pushq.actor() else before.supervisor end);
    perform pushq.tell(end_of_all.told);
    return end_of_all.places;
end
$$;

-- Supervisors that have run since before 0014_sorted carry the URL along, and do not tell it.
do $$
declare
    function regprocedure;
begin
    foreach function in array '{
        "pushq.end_quietly(uuid[], uuid[], float8[], float8[], text[], text[], text[], text[])",
        "pushq.bring_back(uuid, date, timestamptz)"}'::regprocedure[]
    loop
        execute regexp_replace(
            pg_get_functiondef(function), '(\w+\.)?attempt, (\w+\.)?enqueued_at, (\w+\.)?supervisor, (\w+\.)?progress',
            '\&, \1webhook_url, \1traceparent', 'g');
    end loop;
end
$$;


-- Keys -----------------------------------------------------------------------------------------------------------

-- As pushq.standing_job() of 0016_keys, and the URL and the trace are replaced too.
create function pushq.find_standing(
    task text, payload jsonb, queue text, priority smallint, run_at timestamptz, max_attempts int, timeout interval,
    unique_key text, tenant_id text, correlation_id text, is_replaced boolean, key_window interval, longest_delay interval,
    webhook_url text, traceparent text)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_variable
declare
    its_id uuid;
    was record;
    due timestamptz;
begin
    if find_standing.queue = 'pushq.webhooks' then
        perform pushq.refuse_job('jobs_queue_pushq_webhooks_is_for_pushq');
    end if;
    perform pushq.refuse_other_tenant(find_standing.tenant_id);
    if find_standing.tenant_id is null then
        select job.id into its_id
        from pushq.jobs_unfinished as job
        where job.tenant_id is null and job.unique_key = find_standing.unique_key;
    else
        select job.id into its_id
        from pushq.jobs_unfinished as job
        where job.tenant_id = find_standing.tenant_id and job.unique_key = find_standing.unique_key;
    end if;
    if its_id is null then
        return null;
    end if;
    if find_standing.is_replaced then
        select job.status, job.task, job.queue, job.run_at, job.enqueued_at, job.attempt into was
        from pushq.jobs_unfinished as job
        where job.id = its_id and job.unique_key = find_standing.unique_key
        for update;
        if not found then
            return null;  -- ended meanwhile
        elsif was.status = 'queued' then
            due := least(
                coalesce(find_standing.run_at, least(was.run_at, clock_timestamp())), was.enqueued_at + find_standing.longest_delay);
            update pushq.jobs_unfinished as job
            set task = find_standing.task,
                payload = find_standing.payload,
                queue = find_standing.queue,
                priority = find_standing.priority,
                run_at = due,
                max_attempts = find_standing.max_attempts,
                timeout = find_standing.timeout,
                correlation_id = find_standing.correlation_id,
                webhook_url = find_standing.webhook_url,
                traceparent = find_standing.traceparent,
                progress = null
            where job.id = its_id;
            if not found then
                perform pushq.refuse_change(its_id);
            end if;
            if due < was.run_at or find_standing.queue <> was.queue or find_standing.task <> was.task then
                perform pushq.ring_if_idle(find_standing.queue);
            end if;
            if pushq.is_noted(find_standing.queue, find_standing.task, find_standing.tenant_id) then
                perform pushq.note_changes(
                    null, '{}', array[its_id], array[find_standing.tenant_id], array[was.attempt], '{queued}', '{edited}', null,
                    null, null, pushq.actor());
            end if;
        end if;
    end if;
    if find_standing.key_window is not null then
        perform pushq.note_window(
            find_standing.unique_key, find_standing.tenant_id, its_id, job.enqueued_at + find_standing.key_window)
        from pushq.jobs_unfinished as job
        where job.id = its_id;
        if not found then
            return null;
        end if;
    end if;
    return its_id;
end
$$;

-- For calls that have begun before this migration.
create or replace function pushq.standing_job(
    task text, payload jsonb, queue text, priority smallint, run_at timestamptz, max_attempts int, timeout interval,
    unique_key text, tenant_id text, correlation_id text, is_replaced boolean, key_window interval, longest_delay interval)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return pushq.find_standing(
        standing_job.task, standing_job.payload, standing_job.queue, standing_job.priority, standing_job.run_at,
        standing_job.max_attempts, standing_job.timeout, standing_job.unique_key, standing_job.tenant_id,
        standing_job.correlation_id, standing_job.is_replaced, standing_job.key_window, standing_job.longest_delay, null, null);
end
$$;

-- Renamed and not dropped: a session may be about to call the function that its statement has found.
alter function pushq.enqueue(
    text, jsonb, text, int, timestamptz, int, interval, text, text, text, text[], text, interval, interval)
    -- squawk-ignore renaming-object
    rename to enqueue_as_before;
create function pushq.enqueue(
    task text, payload jsonb default '{}', queue text default 'default', priority int default 0,
    run_at timestamptz default null, max_attempts int default null, timeout interval default null,
    unique_key text default null, tenant_id text default null, correlation_id text default null, waiters text[] default null,
    standing text default 'keep', key_window interval default null, longest_delay interval default null,
    webhook_url text default null, traceparent text default null, out id uuid, out inserted boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    its_payload jsonb := coalesce(enqueue.payload, '{}');
    its_queue text := coalesce(enqueue.queue, 'default');
    its_priority smallint;
    is_replaced boolean := enqueue.standing = 'replace';
    within_window uuid;
begin
    if enqueue.task is null then
        raise invalid_parameter_value using message = 'pushq.enqueue: name the task, not null';
    elsif enqueue.priority not between -32768 and 32767 then
        raise invalid_parameter_value using message = format(
            'pushq.enqueue: a priority is a number from -32768 to 32767, not %s', enqueue.priority);
    elsif enqueue.standing <> 'keep' or enqueue.key_window is not null or enqueue.longest_delay is not null then
        perform pushq.check_enqueue(enqueue.standing, enqueue.key_window, enqueue.longest_delay);
    end if;
    its_priority := coalesce(enqueue.priority, 0);
    if enqueue.key_window is not null then
        if enqueue.unique_key is null then
            raise invalid_parameter_value using message = format(
                'pushq.enqueue: a key_window (%s) is a key''s; give the unique_key', enqueue.key_window);
        end if;
        within_window := pushq.open_window(enqueue.unique_key, enqueue.tenant_id, enqueue.key_window);
        if within_window is not null then
            if is_replaced then
                enqueue.id := pushq.find_standing(
                    enqueue.task, its_payload, its_queue, its_priority, enqueue.run_at, enqueue.max_attempts, enqueue.timeout,
                    enqueue.unique_key, enqueue.tenant_id, enqueue.correlation_id, true, null, enqueue.longest_delay,
                    enqueue.webhook_url, enqueue.traceparent);
            end if;
            enqueue.id := coalesce(enqueue.id, within_window);
            enqueue.inserted := false;
            return;
        end if;
    end if;
    for _ in 1..100 loop
        insert into pushq.jobs (
            task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, waiters,
            webhook_url, traceparent)
        values (
            enqueue.task, its_payload, its_queue, its_priority,
            least(coalesce(enqueue.run_at, now()), now() + enqueue.longest_delay), enqueue.max_attempts, enqueue.timeout,
            enqueue.unique_key, enqueue.tenant_id, enqueue.correlation_id, enqueue.waiters, enqueue.webhook_url,
            enqueue.traceparent)
        on conflict do nothing
        returning jobs.id into enqueue.id;
        enqueue.inserted := found;
        if enqueue.inserted then
            if enqueue.key_window is not null then
                perform pushq.note_window(enqueue.unique_key, enqueue.tenant_id, enqueue.id);
            end if;
            return;
        end if;
        exit when enqueue.unique_key is null;
        enqueue.id := pushq.find_standing(
            enqueue.task, its_payload, its_queue, its_priority, enqueue.run_at, enqueue.max_attempts, enqueue.timeout,
            enqueue.unique_key, enqueue.tenant_id, enqueue.correlation_id, is_replaced, enqueue.key_window, enqueue.longest_delay,
            enqueue.webhook_url, enqueue.traceparent);
        if enqueue.id is not null then
            return;
        end if;
        -- The job with the key ended between the two statements.
    end loop;
    raise insufficient_privilege using message = format(
        'pushq.enqueue: the %s job was not inserted, and no job with its key stands in its way: a trigger or a unique index '
        'of your own says so', enqueue.task);
end
$$;

create or replace function pushq.enqueue_as_before(
    task text, payload jsonb default '{}', queue text default 'default', priority int default 0,
    run_at timestamptz default null, max_attempts int default null, timeout interval default null,
    unique_key text default null, tenant_id text default null, correlation_id text default null, waiters text[] default null,
    standing text default 'keep', key_window interval default null, longest_delay interval default null,
    out id uuid, out inserted boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    done record;
begin
    done := pushq.enqueue(
        enqueue_as_before.task, enqueue_as_before.payload, enqueue_as_before.queue, enqueue_as_before.priority,
        enqueue_as_before.run_at, enqueue_as_before.max_attempts, enqueue_as_before.timeout, enqueue_as_before.unique_key,
        enqueue_as_before.tenant_id, enqueue_as_before.correlation_id, enqueue_as_before.waiters, enqueue_as_before.standing,
        enqueue_as_before.key_window, enqueue_as_before.longest_delay);
    enqueue_as_before.id := done.id;
    enqueue_as_before.inserted := done.inserted;
end
$$;

-- As in 0016_keys.
create or replace function pushq.enqueue_many(
    jobs jsonb, standing text default 'keep', key_window interval default null, longest_delay interval default null)
returns table (place int, id uuid, inserted boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known text[] := '{task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, waiters, '
        'webhook_url, traceparent}';
    fault text;
    job record;
    done record;
    ids uuid[];
    were_inserted boolean[];
begin
    if jsonb_typeof(enqueue_many.jobs) is distinct from 'array' then
        raise invalid_parameter_value using message = format(
            'pushq.enqueue_many: jobs is an array, [{"task": "mail.welcome"}, …], not %s',
            coalesce('a JSON ' || jsonb_typeof(enqueue_many.jobs), 'null'));
    end if;
    perform pushq.check_enqueue(enqueue_many.standing, enqueue_many.key_window, enqueue_many.longest_delay);
    select format('pushq.enqueue_many: job %s %s', given.place, found.fault) into fault
    from jsonb_array_elements(enqueue_many.jobs) with ordinality as given (job, place)
    cross join lateral (
        select case
            when jsonb_typeof(given.job) <> 'object' then format('is a JSON %s, not an object', jsonb_typeof(given.job))
            when given.job - known <> '{}' then format(
                'names %s; name only %s',
                (select string_agg(name, ', ') from jsonb_object_keys(given.job - known) as name), array_to_string(known, ', '))
            when given.job ->> 'task' is null then 'has no task; name it'
            when enqueue_many.key_window is not null and given.job ->> 'unique_key' is null then format(
                'has no unique_key, and a key_window (%s) is a key''s; give the unique_key', enqueue_many.key_window)
        end as fault
    ) as found
    where found.fault is not null
    order by given.place
    limit 1;
    if fault is not null then
        raise invalid_parameter_value using message = fault;
    end if;
    -- As pushq's INSERT of many jobs is ordered.
    for job in
        select given.*
        from rows from (
            jsonb_to_recordset(enqueue_many.jobs) as (
                task text, payload jsonb, queue text, priority int, run_at timestamptz, max_attempts int, timeout interval,
                unique_key text, tenant_id text, correlation_id text, waiters text[], webhook_url text, traceparent text)
        ) with ordinality as given (
            task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, waiters,
            webhook_url, traceparent, place)
        order by given.unique_key, given.tenant_id, given.place
    loop
        done := pushq.enqueue(
            job.task, job.payload, job.queue, job.priority, job.run_at, job.max_attempts, job.timeout, job.unique_key,
            job.tenant_id, job.correlation_id, job.waiters, enqueue_many.standing, enqueue_many.key_window,
            enqueue_many.longest_delay, job.webhook_url, job.traceparent);
        ids[job.place] := done.id;
        were_inserted[job.place] := done.inserted;
    end loop;
    return query
    select given.place::int, given.id, given.inserted
    from unnest(ids, were_inserted) with ordinality as given (id, inserted, place);
end
$$;


-- Rights ---------------------------------------------------------------------------------------------------------

revoke execute on function
    pushq.copy_noted_queues(), pushq.rest_inserts(), pushq.webhooks_of(text, text, text),
    pushq.deliver(bigint[], uuid[], text[], timestamptz[], int[], text[], jsonb[]), pushq.deliver_to_urls(uuid[]),
    pushq.find_standing(
        text, jsonb, text, smallint, timestamptz, int, interval, text, text, text, boolean, interval, interval, text, text)
    from public;

-- Whoever may insert jobs with a key may give them the new columns.
do $$
declare
    its_role text;
begin
    for its_role in
        select distinct case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
        from (
            select relowner, (aclexplode(relacl)).* from pg_class where oid = 'pushq.jobs'::regclass
            union all
            select relowner, (aclexplode(attacl)).*
            from pg_attribute
            join pg_class on pg_class.oid = attrelid
            where attrelid = 'pushq.jobs'::regclass and attname = 'unique_key'
        ) as held
        where privilege_type = 'INSERT' and grantee <> relowner
    loop
        execute format(
            'grant execute on function pushq.enqueue, pushq.find_standing to %1$s; '
            'grant insert (webhook_url, traceparent) on pushq.jobs to %1$s',
            its_role);
    end loop;
end
$$;

create or replace function pushq.tables_of_tenants() returns table (name text, index_columns text)
language sql immutable parallel safe
begin atomic
    values
        ('jobs', 'tenant_id, enqueued_at'), ('job_events', 'tenant_id, id'), ('artifacts', 'tenant_id, id'),
        ('webhooks', 'tenant_id, id');
end;

-- A tenant keeps webhooks of its own, but does not read their secrets.
do $$
begin
    execute replace(replace(
        pg_get_functiondef('pushq.grant_to_tenants()'::regprocedure),
        '    grant select on pushq.migrations to pushq_tenant;', $add$
    grant
        select (id, tenant_id, queue, task, statuses, url, body, paused_at, created_at),
        insert (id, tenant_id, queue, task, statuses, url, secrets, body, paused_at),
        update (queue, task, statuses, url, secrets, body, paused_at),
        delete
        on pushq.webhooks to pushq_tenant;
    grant select on pushq.migrations to pushq_tenant;$add$),
        'pushq.are_channels(text[]),',
        'pushq.are_channels(text[]), pushq.are_secrets(text[]), pushq.note_insert(uuid), pushq.find_standing,');
    execute replace(
        pg_get_functiondef('pushq.delete_tenant(text, int)'::regprocedure), '    -- In rounds, since', $add$
    delete from pushq.webhooks as its where its.tenant_id = delete_tenant.tenant;
    -- In rounds, since$add$);
    if pushq.is_separated() and to_regrole('pushq_tenant') is not null then
        perform pushq.separate_tenants();
    end if;
end
$$;
