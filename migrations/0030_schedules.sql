-- Schedules: jobs that come again and again. A schedule is a row that any app may write.
--
-- Theory of operation. `next_at` is the next slot: the next instant at which the schedule is to insert a job. Supervisors sleep until
-- the first slot of all, which one look into an index tells (pushq/supervisor/schedules.py). When a slot is due, each supervisor tries
-- the same: in one transaction it moves `next_at` on from the slot that it has read, and inserts the job. Who comes second finds another
-- `next_at`, and changes nothing. So a slot has one job, however many supervisors there are, and there is no leader. A unique key could
-- not do it: keys are free again when their jobs have ended, and a supervisor that is late would insert a slot that has run.
--
-- PostgreSQL cannot read a cron expression. So a trigger clears `next_at` when what it was computed from changes, and rings; the
-- supervisors compute it anew, from `since` on. Intervals need no supervisor for that.
--
-- What can go wrong with one schedule stays with it. An expression that cannot be read sets `error`, and leaves `next_at` null: the
-- schedule waits for a change. A job that the database refuses sets `error` too, and the slot is tried again at `retry_at`.

insert into pushq.migrations (version, name) values (30, '0030_schedules');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 30;

create table pushq.schedules (
    id uuid primary key default pushq.uuidv7(),
    name text collate "C" not null constraint schedules_name_has_1_to_200_characters check (length(name) between 1 and 200),
    tenant_id text constraint schedules_tenant_id_has_1_to_200_characters check (length(tenant_id) between 1 and 200),
    cron text constraint schedules_cron_has_1_to_500_characters check (length(cron) between 1 and 500),
    zone text not null default 'UTC' constraint schedules_zone_has_1_to_100_characters check (length(zone) between 1 and 100),
    every interval
        constraint schedules_every_is_1_second_to_3660_days check (every between interval '1 second' and interval '3660 days')
        constraint schedules_every_has_no_months check (extract(month from every) = 0 and extract(year from every) = 0),
    task text not null constraint schedules_task_has_1_to_200_characters check (length(task) between 1 and 200),
    payload jsonb not null default '{}'
        constraint schedules_payload_is_object check (jsonb_typeof(payload) = 'object')
        constraint schedules_payload_is_at_most_1_mib check (pg_column_size(payload || '{}') <= 1048576),
    queue text not null default 'default'
        constraint schedules_queue_has_1_to_200_characters check (length(queue) between 1 and 200)
        -- A supervisor inserts the jobs, and may write into that queue.
        constraint schedules_queue_pushq_webhooks_is_for_pushq check (queue <> 'pushq.webhooks'),
    needs jsonb
        constraint schedules_needs_are_those_of_a_job check (pushq.broken_rule_of_needs(needs, null, null) is null),
    missed text not null default 'once' constraint schedules_missed_is_once_skip_or_all check (missed in ('once', 'skip', 'all')),
    paused_at timestamptz,
    next_at timestamptz
        constraint schedules_next_at_is_between_1970_and_9999
        check (next_at >= '1970-01-01 00:00:00+00' and next_at < '9999-01-01 00:00:00+00'),
    last_at timestamptz,
    error text,
    retry_at timestamptz,
    since timestamptz not null default clock_timestamp()
        constraint schedules_since_is_between_1970_and_9999
        check (since >= '1970-01-01 00:00:00+00' and since < '9999-01-01 00:00:00+00'),
    declared_at timestamptz,
    constraint schedules_name_is_given_once_a_tenant unique nulls not distinct (tenant_id, name),
    constraint schedules_have_a_cron_or_an_interval check (num_nonnulls(cron, every) = 1)
)
-- Each slot writes a row version.
with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

comment on table pushq.schedules is 'Jobs that come again and again, by a cron expression or an interval: plain rows, which an application may write.';
comment on column pushq.schedules.name is 'The schedule''s name, given once a tenant.';
comment on column pushq.schedules.tenant_id is 'The tenant_id of the schedule''s jobs, and whose schedule this is. Null: nobody''s.';
comment on column pushq.schedules.cron is 'When, as five fields: minute, hour, day of the month, month, day of the week; or @hourly, @daily, @weekly, @monthly, @yearly.';
comment on column pushq.schedules.zone is 'The time zone of the cron expression, such as Europe/Berlin.';
comment on column pushq.schedules.every is 'An interval in place of a cron expression. A day is 24 hours.';
comment on column pushq.schedules.task is 'The task of the jobs.';
comment on column pushq.schedules.payload is 'The payload of the jobs.';
comment on column pushq.schedules.queue is 'The queue of the jobs.';
comment on column pushq.schedules.needs is 'The needs of the jobs.';
comment on column pushq.schedules.missed is
    'What becomes of slots for which no supervisor was there: once: one job for all of them; skip: none; all: a job for each of the last 31 days.';
comment on column pushq.schedules.paused_at is 'Since when no job is inserted. Slots during the pause are not made up for.';
comment on column pushq.schedules.next_at is
    'The next slot. Null: to be computed, or error says why it cannot be. May be set, to choose the first slot.';
comment on column pushq.schedules.last_at is 'The last slot for which a job was inserted. Set by pushq.';
comment on column pushq.schedules.error is 'Why there is no job. Set by pushq. Setting it to null has pushq try again.';
comment on column pushq.schedules.retry_at is 'When a slot is tried again whose job the database has refused. Set by pushq.';
comment on column pushq.schedules.since is 'Slots after this instant count. Set by pushq: when the row was written, its times changed, its pause ended, or a slot was kept.';
comment on column pushq.schedules.declared_at is 'When code first declared the schedule. Null: code has not. Set by pushq.';

-- The first slot of all, and what is to be computed. Rows that are paused, or wait for a change, are in neither.
create index schedules_due on pushq.schedules (coalesce(retry_at, next_at)) where paused_at is null and next_at is not null;
create index schedules_to_compute on pushq.schedules (id) where paused_at is null and next_at is null and error is null;
create index schedules_with_error on pushq.schedules (id) where error is not null;

alter table pushq.supervisors add column schedules text[] not null default '{}';
comment on column pushq.supervisors.schedules is 'The schedules that its code declares.';


-- Changes ----------------------------------------------------------------------------------------------------------------

-- Has next_at computed anew when what it depends on has changed, and computes it for intervals.
create function pushq.set_schedule() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    current timestamptz := clock_timestamp();
    grid_at timestamptz;
begin
    -- In seconds alone, since a day would be as long as the day is in the time zone of whoever adds it.
    if new.every between interval '1 second' and interval '3660 days'
        and extract(month from new.every) = 0 and extract(year from new.every) = 0 then
        new.every := make_interval(secs => extract(epoch from new.every)::float8);
    end if;
    if tg_op = 'UPDATE' then
        if (new.cron, new.zone, new.every) is distinct from (old.cron, old.zone, old.every)
            or new.paused_at is null and old.paused_at is not null and coalesce(old.next_at <= current, true)
            or new.next_at is null and old.next_at is not null and new.error is not distinct from old.error
            or new.next_at is null and new.error is null and old.error is not null
        then
            grid_at := case when new.every = old.every then old.next_at end;
            if new.next_at is not distinct from old.next_at then
                new.next_at := null;
            end if;
            new.since := current;
            new.error := null;
            new.retry_at := null;
        elsif new.next_at is distinct from old.next_at
            or (new.task, new.payload, new.queue, new.needs, new.tenant_id)
                is distinct from (old.task, old.payload, old.queue, old.needs, old.tenant_id)
            or new.error is null
        then
            new.retry_at := null;  -- the slot is tried at once
            if new.next_at is not null then
                new.error := null;
            end if;
        end if;
    end if;
    if new.every > interval '0' and new.next_at is null then
        new.next_at := coalesce(
            grid_at + new.every * ceil(extract(epoch from new.since - grid_at) / extract(epoch from new.every))::float8,
            new.since + new.every);
        new.error := null;
    end if;
    return new;
end
$$;

-- Named so as to come after triggers of the user's own. Not for a schedule that is moved on, since a hundred may be due at once.
create trigger zz_set_schedule
before insert or update of cron, zone, every, paused_at, task, payload, queue, needs, tenant_id on pushq.schedules
for each row execute function pushq.set_schedule();
create trigger zz_set_schedule_anew
before update of next_at, error on pushq.schedules
for each row when (new.next_at is null or new.retry_at is not null) execute function pushq.set_schedule();

-- Wakes supervisors. Not told if the transaction has set pushq.notify = 'off', or the cluster's notification queue is half full.
create function pushq.ring_for_schedules() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(current_setting('pushq.notify', true) <> 'off', true) and pg_notification_queue_usage() < 0.5 then
        perform pg_notify('pushq_schedules', '');
    end if;
    return null;
end
$$;

create trigger schedules_ring
after insert on pushq.schedules
for each row when (new.paused_at is null) execute function pushq.ring_for_schedules();

-- Not when a supervisor moves a schedule on: a notifying commit takes one lock for the whole cluster, and the next slot is later.
create trigger schedules_ring_for_change
after update on pushq.schedules
for each row
when (
    new.paused_at is null and (
        new.next_at is null and new.error is null
        or new.next_at is not null and (old.next_at is null or old.paused_at is not null
            or coalesce(new.retry_at, new.next_at) < coalesce(old.retry_at, old.next_at))))
execute function pushq.ring_for_schedules();


-- Slots ------------------------------------------------------------------------------------------------------------------

-- Keeps schedules whose slots are due: moves each from the slot `was` to `becomes`, and inserts its jobs. slots[n] is a slot of the
-- schedule ids[places[n]]. errors: why there is no further slot, or null. Leaves alone what another supervisor has kept, what has changed since it was read, and what somebody has
-- locked. A job that the database refuses sets its schedule's error; then each schedule is kept for itself. Returns how many were kept.
create function pushq.keep_schedules(
    ids uuid[], was timestamptz[], crons text[], zones text[], everys interval[], becomes timestamptz[], errors text[],
    places int[], slots timestamptz[])
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_hashjoin = on
set enable_seqscan = off
as $$
declare
    kept int := 0;
    said text;
begin
    with mine as materialized (
        select
            schedule.id, schedule.task, schedule.payload, schedule.queue, schedule.needs, schedule.tenant_id, schedule.name,
            given.becomes, given.error, given.place
        from unnest(
            keep_schedules.ids, keep_schedules.was, keep_schedules.crons, keep_schedules.zones, keep_schedules.everys,
            keep_schedules.becomes, keep_schedules.errors
        ) with ordinality as given (id, was, cron, zone, every, becomes, error, place)
        join pushq.schedules as schedule on schedule.id = given.id
        where schedule.next_at = given.was and schedule.next_at <= clock_timestamp() and schedule.paused_at is null
        and schedule.cron is not distinct from given.cron and schedule.zone = given.zone
        and schedule.every is not distinct from given.every
        order by schedule.id
        for no key update of schedule skip locked
    ),
    slot as materialized (
        select its.place, its.at, its.turn
        from unnest(keep_schedules.places, keep_schedules.slots) with ordinality as its (place, at, turn)
    ),
    moved as (
        update pushq.schedules as schedule
        set next_at = mine.becomes,
            last_at = coalesce(last.at, schedule.last_at),
            error = mine.error,
            retry_at = null,
            since = clock_timestamp()
        from mine
        left join (select slot.place, max(slot.at) as at from slot group by slot.place) as last on last.place = mine.place
        where schedule.id = mine.id
        returning schedule.id
    ),
    inserted as (
        insert into pushq.jobs (task, payload, queue, run_at, tenant_id, needs, correlation_id)
        select
            mine.task, mine.payload, mine.queue, slot.at, mine.tenant_id, mine.needs,
            pushq.correlation_of_schedule(mine.name)
        from mine
        join slot on slot.place = mine.place
        order by slot.at, slot.turn
    )
    select count(*) into kept from moved;
    return kept;
exception
    when others then
        said := sqlerrm;
        -- The disk is full, the server goes down: no schedule is at fault.
        if sqlstate ~ '^(53|57|58|XX)' then
            raise;
        elsif cardinality(keep_schedules.ids) = 1 then
            perform pushq.refuse_slot(keep_schedules.ids[1], keep_schedules.was[1], said);
            return 0;
        end if;
        for its_place in 1..cardinality(keep_schedules.ids) loop
            kept := kept + pushq.keep_schedules(
                keep_schedules.ids[its_place:its_place], keep_schedules.was[its_place:its_place],
                keep_schedules.crons[its_place:its_place], keep_schedules.zones[its_place:its_place],
                keep_schedules.everys[its_place:its_place], keep_schedules.becomes[its_place:its_place],
                keep_schedules.errors[its_place:its_place],
                array_fill(1, array[(
                    select count(*)::int from unnest(keep_schedules.places) as place where place = its_place)]),
                array(
                    select its.at
                    from unnest(keep_schedules.places, keep_schedules.slots) with ordinality as its (place, at, turn)
                    where its.place = its_place
                    order by its.turn));
        end loop;
        return kept;
end
$$;

-- What jobs of a schedule have as their correlation_id.
create function pushq.correlation_of_schedule(name text) returns text
language sql immutable parallel safe
return left('schedule ' || name, 200);

-- Notes why the job of a slot was refused. The slot is tried again: after 5 seconds at first, and after 5 minutes in the end. Waits for
-- no lock, since another supervisor may be noting the same of the same schedules in another order.
create function pushq.refuse_slot(id uuid, was timestamptz, reason text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update pushq.schedules as schedule
    set error = left(format('no job was inserted: %s', refuse_slot.reason), 500),
        retry_at = clock_timestamp() + least(greatest((clock_timestamp() - schedule.next_at) / 2, interval '5 seconds'), interval '5 minutes')
    where schedule.id = (
        select its.id
        from pushq.schedules as its
        where its.id = refuse_slot.id and its.next_at = refuse_slot.was
        for no key update skip locked
    );
end
$$;


-- By hand ----------------------------------------------------------------------------------------------------------------

-- The schedule of a name that the caller may touch. tenant_id: null for nobody's, or, if the caller is a tenant's, for the tenant's.
create function pushq.find_schedule(name text, tenant_id text) returns pushq.schedules
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    its_tenant text := find_schedule.tenant_id;
    found_schedule pushq.schedules;
begin
    if its_tenant is null and not pushq.may_touch(null) then
        its_tenant := pushq.tenant_of(pushq.caller());
    end if;
    if pushq.may_touch(its_tenant) then
        select schedule.* into found_schedule
        from pushq.schedules as schedule
        where schedule.name = find_schedule.name and schedule.tenant_id is not distinct from its_tenant;
    end if;
    return found_schedule;
end
$$;

-- Inserts a job of a schedule now, beside its slots. Returns the job's id, or null if there is no such schedule.
create function pushq.run_schedule(name text, tenant_id text default null) returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    schedule pushq.schedules := pushq.find_schedule(run_schedule.name, run_schedule.tenant_id);
    job uuid;
begin
    if schedule.id is null then
        return null;
    end if;
    insert into pushq.jobs (task, payload, queue, tenant_id, needs, correlation_id, submitted_by)
    values (
        schedule.task, schedule.payload, schedule.queue, schedule.tenant_id, schedule.needs,
        pushq.correlation_of_schedule(schedule.name), pushq.caller())
    returning id into job;
    return job;
end
$$;

-- Returns 'paused', 'already paused', or 'unknown'.
create function pushq.pause_schedule(name text, tenant_id text default null) returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    schedule pushq.schedules := pushq.find_schedule(pause_schedule.name, pause_schedule.tenant_id);
begin
    update pushq.schedules as its set paused_at = clock_timestamp() where its.id = schedule.id and its.paused_at is null;
    return case when found then 'paused' when schedule.id is null then 'unknown' else 'already paused' end;
end
$$;

-- Returns 'resumed', 'not paused', or 'unknown'.
create function pushq.resume_schedule(name text, tenant_id text default null) returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    schedule pushq.schedules := pushq.find_schedule(resume_schedule.name, resume_schedule.tenant_id);
begin
    update pushq.schedules as its set paused_at = null where its.id = schedule.id and its.paused_at is not null;
    return case when found then 'resumed' when schedule.id is null then 'unknown' else 'not paused' end;
end
$$;


-- Rights -----------------------------------------------------------------------------------------------------------------

revoke execute on function
    pushq.keep_schedules, pushq.refuse_slot, pushq.find_schedule, pushq.run_schedule, pushq.pause_schedule, pushq.resume_schedule,
    pushq.ring_for_schedules(), pushq.set_schedule()
    from public;

-- Whoever could run jobs before may keep schedules, whoever sees supervisors sees them, and whoever may insert jobs may write them. A
-- producer does not read payloads.
do $$
declare
    its_role text;
begin
    for its_role in
        select distinct case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
        from pg_class, aclexplode(relacl)
        where oid = 'pushq.jobs_unfinished'::regclass and privilege_type = 'UPDATE' and grantee <> relowner
    loop
        execute format(
            'grant select, insert, update, delete on pushq.schedules to %1$s; '
            'grant execute on function pushq.keep_schedules, pushq.refuse_slot, pushq.find_schedule, pushq.run_schedule, '
            'pushq.pause_schedule, pushq.resume_schedule to %1$s', its_role);
    end loop;
    for its_role in
        select distinct case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
        from pg_class, aclexplode(relacl)
        where oid = 'pushq.supervisors'::regclass and privilege_type = 'SELECT' and grantee <> relowner
    loop
        execute format('grant select on pushq.schedules to %s', its_role);
    end loop;
    for its_role in
        select distinct case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
        from pg_class
        join pg_attribute on attrelid = pg_class.oid
        cross join aclexplode(attacl)
        where pg_class.oid = 'pushq.jobs'::regclass and attname = 'unique_key' and privilege_type = 'INSERT'
        and grantee <> relowner and grantee <> coalesce(to_regrole('pushq_tenant'), 0)
    loop
        execute format(
            'grant select (id, name, tenant_id, cron, zone, every, task, queue, missed, paused_at, next_at, last_at, error), '
            'insert (id, name, tenant_id, cron, zone, every, task, payload, queue, needs, missed, paused_at, next_at), '
            'update (name, tenant_id, cron, zone, every, task, payload, queue, needs, missed, paused_at, next_at, error), '
            'delete on pushq.schedules to %1$s; '
            'grant execute on function pushq.run_schedule, pushq.pause_schedule, pushq.resume_schedule to %1$s', its_role);
    end loop;
end
$$;

create or replace function pushq.tables_of_tenants() returns table (name text, index_columns text)
language sql immutable parallel safe
begin atomic
    values
        ('jobs', 'tenant_id, enqueued_at'), ('job_events', 'tenant_id, id'), ('artifacts', 'tenant_id, id'),
        ('webhooks', 'tenant_id, id'), ('schedules', 'tenant_id, id');
end;

-- A tenant keeps schedules of its own.
do $$
begin
    execute replace(replace(
        pg_get_functiondef('pushq.grant_to_tenants()'::regprocedure),
        '    grant select on pushq.migrations to pushq_tenant;', $add$
    grant
        select (
            id, name, tenant_id, cron, zone, every, task, payload, queue, needs, missed, paused_at, next_at, last_at, error,
            retry_at, since),
        insert (id, name, tenant_id, cron, zone, every, task, payload, queue, needs, missed, paused_at, next_at),
        update (name, cron, zone, every, task, payload, queue, needs, missed, paused_at, next_at, error),
        delete
        on pushq.schedules to pushq_tenant;
    grant select on pushq.migrations to pushq_tenant;$add$),
        'pushq.are_channels(text[]),',
        'pushq.are_channels(text[]), pushq.broken_rule_of_needs, pushq.run_schedule, pushq.pause_schedule, pushq.resume_schedule,');
    -- First of all, so that no further job comes.
    execute replace(
        pg_get_functiondef('pushq.delete_tenant(text, int)'::regprocedure), '    -- In rounds, since', $add$
    delete from pushq.schedules as its where its.tenant_id = delete_tenant.tenant;
    -- In rounds, since$add$);
    if pushq.is_separated() and to_regrole('pushq_tenant') is not null then
        perform pushq.separate_tenants();
    end if;
end
$$;
