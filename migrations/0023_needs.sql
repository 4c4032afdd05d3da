-- Needs: what a job may have to wait for. A need is a name and units. Jobs of a queue that need the same form a lane.
--
-- Theory of operation. A job with needs has the mark `apart`, so that the claims of other jobs never meet the job. If the first job
-- of a lane cannot run for lack of a unit, no job of the lane can. So a claim of such jobs looks at the first of each lane.
--
-- The ledger is the rows that run: of a name is held what the running jobs need. There is no counter and no table of holds, so
-- nothing can leak or drift. Whatever ends an attempt gives its units back.
--
-- To take jobs, a claim (0024_lanes)
--   1. looks at lanes, without a lock, for jobs that may fit;
--   2. locks the turnstiles of all names that these jobs need, in order;
--   3. counts again, in a snapshot taken after the locks, and takes the jobs that fit.
-- PostgreSQL makes a commit visible before it lets go of locks. So a claim sees all that earlier claims of its names have taken, and a
-- name is never over its capacity.
--
-- Shares: in a fair queue, each job belongs to the share of its tenant or key. A claim goes round the shares and takes a job of each.

insert into pushq.migrations (version, name) values (23, '0023_needs');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 23;

alter table pushq.jobs
    add column needs jsonb, add column limit_key text, add column affinity text, add column lane text collate "C",
    add column share text collate "C";
comment on column pushq.jobs.needs is
    'What the job holds while it runs: an object of names to units, or an array of names, for one unit each. pushq adds names of its '
    'own, with the prefixes key:, affinity:, tenant:, task: and queue:.';
comment on column pushq.jobs.limit_key is 'Of the jobs with the same key, one runs at a time, or as many as pushq.resources says.';
comment on column pushq.jobs.affinity is 'What the job shares with others that run well after one another on the same worker, a model say.';
comment on column pushq.jobs.lane is
    'Jobs of a queue with the same lane need the same. Set by pushq. Null, or in a fair queue empty: the job needs nothing.';
comment on column pushq.jobs.share is
    'In a fair queue, whose turn it is when the job runs. Set by pushq. Null, or with needs empty: the queue is not fair.';

-- The shares of a queue, in each the lanes, and in each the lines of its tasks.
-- squawk-ignore require-concurrent-index-creation
create index jobs_unfinished_lane
on pushq.jobs_unfinished (queue collate "C", share, lane, task collate "C", priority, run_at, id)
where status = 'queued' and apart in ('lane', 'fair');
-- Who holds what; and of the jobs with a key, which have begun and wait to go on. Two in one, since each index takes its time of an
-- INSERT of any job.
-- squawk-ignore require-concurrent-index-creation
create index jobs_unfinished_begun on pushq.jobs_unfinished (status, limit_key collate "C", id)
where needs is not null and attempt > 0;


-- Rules of names -------------------------------------------------------------------------------------------------

create table pushq.resources (
    name text collate "C" primary key
        constraint resources_name_has_1_to_210_characters check (length(name) between 1 and 210)
        constraint resources_queues_are_limited_in_pushq_queues check (name not like 'queue:%'),
    capacity int constraint resources_capacity_is_not_negative check (capacity >= 0),
    rate double precision constraint resources_rate_is_1e_7_to_1e6 check (rate between 1e-7 and 1e6),
    burst int not null default 1 constraint resources_burst_is_1_to_a_million check (burst between 1 and 1000000),
    constraint resources_burst_is_whole_again_within_10_years check (burst <= 3.2e8 * greatest(rate, 1e-7)),
    strict boolean not null default false constraint resources_are_strict_for_keys_alone check (not strict or name like 'key:%')
);
create index resources_strict on pushq.resources (name) where strict;
comment on table pushq.resources is
    'The rules of names: resources that jobs need, and limits. The name key:* is the rule of all keys without one of their own, '
    'and so on for tenant:*, task:* and affinity:*. Without a rule, a resource or a key has capacity 1, and the others any.';
comment on column pushq.resources.capacity is 'Units that jobs may hold at once. Null: any number. 0: closed.';
comment on column pushq.resources.rate is 'Units a second that may be taken. Null: any.';
comment on column pushq.resources.burst is 'Units that may be taken at once after a rest, where there is a rate.';
comment on column pushq.resources.strict is
    'Of a key: a job that has begun and waits to be tried again keeps its place, and jobs of the key that have not begun wait for it.';

alter table pushq.queues
    add column capacity int constraint queues_capacity_is_not_negative check (capacity >= 0),
    add column rate double precision constraint queues_rate_is_1e_7_to_1e6 check (rate between 1e-7 and 1e6),
    add column burst int not null default 1 constraint queues_burst_is_1_to_a_million check (burst between 1 and 1000000),
    -- Queues are few.
    -- squawk-ignore constraint-missing-not-valid
    add constraint queues_burst_is_whole_again_within_10_years check (burst <= 3.2e8 * greatest(rate, 1e-7)),
    add column turn interval not null default '50 ms'
        constraint queues_turn_is_at_most_an_hour check (turn between interval '0' and interval '1 hour'),
    add column fair text constraint queues_are_fair_by_tenant_or_by_key check (fair in ('tenant', 'key'));
comment on column pushq.queues.capacity is 'Jobs of the queue that may run at once. Null: any number.';
comment on column pushq.queues.rate is 'Jobs of the queue that may begin a second. Null: any number.';
comment on column pushq.queues.burst is 'Jobs that may begin at once after a rest, where there is a rate.';
comment on column pushq.queues.turn is
    'How long jobs of a lane may follow one another in the place of the first, while others wait. 0: never; strict order.';
comment on column pushq.queues.fair is
    'Whose jobs take turns: tenant or key. A claim then goes round, and takes a job of each. Null: the most urgent job comes first.';

alter table pushq.tasks add column needs jsonb;
comment on column pushq.tasks.needs is 'What each job of the task needs beside its own needs.';

create table pushq.tenants (
    tenant_id text collate "C" primary key,
    weight int not null default 1 constraint tenants_weight_is_1_to_1000 check (weight between 1 and 1000)
);
comment on table pushq.tenants is 'How many jobs of a tenant a fair queue takes each time round: 1, if the tenant is not listed.';

create table pushq.affinities (
    supervisor text not null references pushq.supervisors (name) on update cascade on delete cascade,
    pool int not null,
    affinity text not null,
    workers int not null,
    since timestamptz not null default now(),
    primary key (supervisor, pool, affinity)
);
comment on table pushq.affinities is 'What the workers of each pool last ran, and so are ready for. Up to a second old.';

-- Where a rate stands, by the generic cell rate algorithm (ITU-T I.371): when the burst will be whole again. Without a row, the
-- burst is whole.
create table pushq.tokens (name text collate "C" primary key, whole_at timestamptz not null) with (fillfactor = 50);

-- What claims of jobs with needs lock: the hash of a name picks a row.
create table pushq.turnstiles (turnstile int primary key);
insert into pushq.turnstiles select generate_series(0, 255);

-- Not zero: jobs get needs or a share by a rule of their queue, task or tenant. A sequence, as pushq.inserts_noted. Each change
-- of such a rule counts on, so that sweepers look at once for jobs that lack what the rule says.
create sequence pushq.needs_stamped as bigint minvalue 0 start 0;
select setval('pushq.needs_stamped', 0);
grant select on sequence pushq.needs_stamped to public;

-- The prefix of a name that pushq makes, or null.
create function pushq.kind_of_need(name text) returns text
language sql immutable parallel safe
return (regexp_match(name, '^(key|affinity|tenant|task|queue):'))[1];

-- The rules of the names. capacity, rate: null if there is no bound.
create function pushq.rules(names text[]) returns table (name text, capacity int, rate double precision, burst int)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select
        named.name,
        case
            when own.name is not null then own.capacity
            when named.kind = 'queue' then queue.capacity
            when of_kind.name is not null then of_kind.capacity
            when named.kind is null or named.kind = 'key' then 1
        end,
        case
            when own.name is not null then own.rate
            when named.kind = 'queue' then queue.rate
            else of_kind.rate
        end,
        coalesce(own.burst, queue.burst, of_kind.burst, 1)
    from (select name, pushq.kind_of_need(name) as kind from unnest(rules.names) as name offset 0) as named
    left join pushq.resources as own on own.name = named.name
    left join pushq.resources as of_kind on of_kind.name = named.kind || ':*'
    left join pushq.queues as queue on named.kind = 'queue' and queue.name = substr(named.name, 7);
end
$$;


-- What a job needs -----------------------------------------------------------------------------------------------

-- Needs as an object.
create function pushq.as_object(needs jsonb) returns jsonb
language sql immutable parallel safe
begin atomic
    select case jsonb_typeof(needs)
        when 'array' then (select coalesce(jsonb_object_agg(name, 1), '{}') from jsonb_array_elements_text(needs) as name)
        else needs
    end;
end;

-- The rule that needs break, or null.
create function pushq.broken_rule_of_needs(needs jsonb, limit_key text, affinity text) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if length(broken_rule_of_needs.limit_key) not between 1 and 195 then
        return 'jobs_limit_key_has_1_to_195_characters';
    elsif length(broken_rule_of_needs.affinity) not between 1 and 190 then
        return 'jobs_affinity_has_1_to_190_characters';
    elsif broken_rule_of_needs.needs is null then
        return null;
    elsif jsonb_typeof(broken_rule_of_needs.needs) not in ('object', 'array')
        or jsonb_path_exists(broken_rule_of_needs.needs, 'strict $ ? (@.type() == "array")[*] ? (@.type() != "string")') then
        return 'jobs_needs_are_an_object_of_units_or_an_array_of_names';
    elsif jsonb_typeof(broken_rule_of_needs.needs) = 'array' and (
        select count(distinct name) < count(*) from jsonb_array_elements_text(broken_rule_of_needs.needs) as name) then
        return 'jobs_needs_in_an_array_name_each_once';
    end if;
    return (
        select case
            when count(*) > 16 then 'jobs_needs_are_at_most_16_names'
            when bool_or(length(need.key) not between 1 and 200) then 'jobs_needs_have_names_of_1_to_200_characters'
            when bool_or(pushq.kind_of_need(need.key) is not null) then 'jobs_needs_have_names_without_a_prefix_of_pushq'
            when bool_or(case
                when jsonb_typeof(need.value) = 'number'
                    then need.value::numeric not between 1 and 1000000 or need.value::numeric % 1 <> 0
                else true
            end) then 'jobs_needs_are_1_to_a_million_units_each'
        end
        from jsonb_each(pushq.as_object(broken_rule_of_needs.needs)) as need
    );
end
$$;

-- All that a job needs: what its producer said, and what rules add. Null: nothing.
create function pushq.all_needs(own jsonb, limit_key text, affinity text, queue text, task text, tenant_id text) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    needs jsonb := coalesce(all_needs.own, '{}');
    is_limited boolean;
begin
    if pg_sequence_last_value('pushq.needs_stamped') > 0 then
        needs := coalesce((select pushq.as_object(known.needs) from pushq.tasks as known where known.name = all_needs.task), '{}') || needs;
        select known.capacity is not null or known.rate is not null into is_limited
        from pushq.queues as known where known.name = all_needs.queue;
        if is_limited then
            needs := needs || jsonb_build_object('queue:' || all_needs.queue, 1);
        end if;
        if exists (
            select from pushq.resources as rule
            where rule.name in ('task:' || all_needs.task, 'task:*') and (rule.capacity is not null or rule.rate is not null)) then
            needs := needs || jsonb_build_object('task:' || all_needs.task, 1);
        end if;
        if all_needs.tenant_id is not null and exists (
            select from pushq.resources as rule
            where rule.name in ('tenant:' || all_needs.tenant_id, 'tenant:*')
            and (rule.capacity is not null or rule.rate is not null)) then
            needs := needs || jsonb_build_object('tenant:' || all_needs.tenant_id, 1);
        end if;
    end if;
    if all_needs.limit_key is not null then
        needs := needs || jsonb_build_object('key:' || all_needs.limit_key, 1);
    end if;
    if all_needs.affinity is not null then
        needs := needs || jsonb_build_object('affinity:' || all_needs.affinity, 1);
    end if;
    return nullif(needs, '{}');
end
$$;

-- The lane of jobs with these needs: short, for the index. The first two characters spread the lanes, so that a search may begin
-- anywhere.
create function pushq.lane(needs jsonb) returns text
language sql immutable parallel safe
return case when needs is not null then
    left(md5(needs::text), 2) || case
        when octet_length(needs::text) <= 300 then needs::text
        else left(needs::text, 60) || md5(needs::text)
    end
end;

-- The share of a job, which begins with two characters that spread the shares. Null: the queue is not fair.
create function pushq.share(queue text, tenant_id text, limit_key text) returns text
language sql stable
begin atomic
    select left(md5(whose.name), 2) || whose.name
    from pushq.queues as known
    cross join lateral (select coalesce(case known.fair when 'tenant' then tenant_id else limit_key end, '')) as whose (name)
    where known.name = queue and known.fair is not null;
end;

-- Refuses a need that no capacity will ever meet as the rules are now. 0 units at once is a resource that is closed for a while.
-- needs: without the names that pushq adds. So each name has a rule of its own, or capacity 1; pushq.rules() costs some 70 µs more.
create function pushq.check_capacities(needs jsonb) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    beyond record;
begin
    select need.key as name, need.value::int as units, bound.capacity, bound.burst into beyond
    from jsonb_each(check_capacities.needs) as need
    left join pushq.resources as rule on rule.name = need.key
    cross join lateral (
        select case when rule.name is null then 1 else rule.capacity end, case when rule.rate is not null then rule.burst end
    ) as bound (capacity, burst)
    where bound.capacity > 0 and need.value::int > bound.capacity or need.value::int > bound.burst
    order by need.key
    limit 1;
    if found then
        raise exception using
            errcode = 'check_violation', schema = 'pushq', table = 'jobs_unfinished',
            constraint = 'jobs_needs_are_within_capacity',
            message = case
                when beyond.units > beyond.capacity then format(
                    'the job needs %s of %L, whose capacity is %s; need less, or raise the capacity in pushq.resources',
                    beyond.units, beyond.name, beyond.capacity)
                else format(
                    'the job needs %s of %L, of which %s may be taken at once; need less, or raise the burst in pushq.resources',
                    beyond.units, beyond.name, beyond.burst)
            end;
    end if;
end
$$;

-- Completes the needs of a job, and sets its lane and its share. A new row has the lane 'to be set', from pushq.check_job(). A row with
-- another lane is a copy of a row that had been here before, from a day or from another database: the names that rules had added are
-- added anew. Only what a producer says now is compared with capacities, so that no rule that has changed meanwhile keeps a job from
-- being copied, or from other changes.
create function pushq.set_lane() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    own jsonb := new.needs;
    is_said_now boolean := case tg_op when 'INSERT' then new.lane = 'to be set' else new.needs is distinct from old.needs end;
    broken_rule text;
begin
    if tg_op = 'UPDATE' or not is_said_now then
        own := pushq.own_needs(own);
    end if;
    broken_rule := pushq.broken_rule_of_needs(own, new.limit_key, new.affinity);
    if broken_rule is not null then
        perform pushq.refuse_job(broken_rule);
    end if;
    own := pushq.as_object(own);
    new.needs := pushq.all_needs(own, new.limit_key, new.affinity, new.queue, new.task, new.tenant_id);
    new.share := case when pg_sequence_last_value('pushq.needs_stamped') > 0
        then pushq.share(new.queue, new.tenant_id, new.limit_key) end;
    new.lane := coalesce(pushq.lane(new.needs), case when new.share is not null then '' end);
    new.share := coalesce(new.share, case when new.lane is not null then '' end);
    -- Whatever is not closed has room for one unit.
    if own is not null and is_said_now and jsonb_path_exists(own, '$.* ? (@ > 1)') then
        perform pushq.check_capacities(own);
    end if;
    if new.apart is distinct from 'cancelling' then
        new.apart := pushq.apart(new.crashes, new.lane, new.share);
    end if;
    if tg_op = 'UPDATE' and not coalesce(new.needs, '{}') @> old.needs then
        perform pushq.ring_all_if_idle();  -- the job needs something no more, or fewer units
    end if;
    return new;
end
$$;

-- Needs without the names that pushq has added.
create function pushq.own_needs(needs jsonb) returns jsonb
language sql immutable parallel safe
begin atomic
    select case jsonb_typeof(needs)
        when 'object' then (
            select jsonb_object_agg(need.key, need.value) from jsonb_each(needs) as need where pushq.kind_of_need(need.key) is null)
        else needs
    end;
end;

-- As pushq.apart(int), for jobs with needs or a share too.
create function pushq.apart(crashes int, lane text, share text) returns text
language sql immutable parallel safe
return coalesce(pushq.apart(crashes), case when share <> '' then 'fair' when lane is not null then 'lane' end);

create or replace function pushq.set_apart() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if new.apart is distinct from 'cancelling' then
        new.apart := pushq.apart(new.crashes, new.lane, new.share);
    end if;
    return new;
end
$$;

-- A new row with needs, or one to which rules may give some, is marked by pushq.check_job(), which sees every row. So the trigger has the
-- cheapest of conditions: PostgreSQL reads the condition anew for every statement.
do $$
begin
    execute replace(
        pg_get_functiondef('pushq.check_job()'::regprocedure), 'return new;', $lane$if new.lane is null and tg_op operator(pg_catalog.=) 'INSERT' and (
        new.needs is not null or new.limit_key is not null or new.affinity is not null
        or pg_catalog.pg_sequence_last_value('pushq.needs_stamped'::pg_catalog.regclass) operator(pg_catalog.>) 0) then
        new.lane := 'to be set';
    end if;
    return new;$lane$);
end
$$;

create trigger zzz_set_lane
before insert on pushq.jobs_unfinished
for each row when (new.lane is not null) execute function pushq.set_lane();
alter table pushq.jobs_unfinished enable always trigger zzz_set_lane;

create trigger zzz_change_lane
before update of needs, limit_key, affinity, lane, share, queue, task, tenant_id on pushq.jobs_unfinished
for each row
when (
    new.needs is not null or new.limit_key is not null or new.affinity is not null or new.lane is not null or old.lane is not null
    or pg_catalog.pg_sequence_last_value('pushq.needs_stamped'::pg_catalog.regclass) > 0)
execute function pushq.set_lane();
alter table pushq.jobs_unfinished enable always trigger zzz_change_lane;


-- Changes of rules -----------------------------------------------------------------------------------------------

-- Whether jobs get needs or a share by a rule of their queue, task or tenant.
create function pushq.are_needs_stamped() returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
            select from pushq.queues as queue where queue.capacity is not null or queue.rate is not null or queue.fair is not null)
        or exists (select from pushq.tasks as task where task.needs is not null)
        or exists (
            select from pushq.resources as rule
            where (rule.name like 'task:%' or rule.name like 'tenant:%') and (rule.capacity is not null or rule.rate is not null));
end
$$;

-- When a rate has been raised, its burst is whole again by the new rate, and not by the old.
create function pushq.trim_tokens() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    late text[] := array(
        select token.name
        from pushq.tokens as token
        join pushq.rules(array(select name from pushq.tokens where whole_at > clock_timestamp())) as rule on rule.name = token.name
        where token.whole_at > clock_timestamp() + rule.burst / rule.rate * interval '1 second');
begin
    if cardinality(late) = 0 then
        return;
    end if;
    -- Claims of these names wait for the turnstiles, too, so that none writes a token meanwhile.
    perform
    from pushq.turnstiles
    where turnstile = any(array(select distinct hashtext(name) & 255 from unnest(late) as name))
    order by turnstile
    for update;
    update pushq.tokens as token
    set whole_at = least(token.whole_at, clock_timestamp() + rule.burst / rule.rate * interval '1 second')
    from pushq.rules(late) as rule
    where token.name = any(late) and rule.name = token.name and rule.rate is not null;
end
$$;

-- Wakes all pools, since more may fit now; lets their lanes go, since less may fit; and remembers that jobs get needs by rules.
create function pushq.note_rules() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    lock table pushq.turnstiles in row exclusive mode;  -- pushq.rest_needs() waits for rules that are not committed yet
    if pushq.are_needs_stamped() or pg_sequence_last_value('pushq.needs_stamped') > 0 then
        perform nextval('pushq.needs_stamped');
    end if;
    perform pushq.trim_tokens();
    perform pushq.ring_bell('');
    perform pg_notify('pushq_rules', '') where pg_notification_queue_usage() < 0.5;
    return null;
end
$$;

-- Puts the sequence back to zero when no job gets needs by rules any more. Not in the trigger: a sequence keeps a value whose
-- transaction is rolled back, and a rule would be forgotten.
create function pushq.rest_needs() returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
begin
    if pg_sequence_last_value('pushq.needs_stamped') > 0 and not pushq.are_needs_stamped() then
        lock table pushq.turnstiles in share row exclusive mode;
        if not pushq.are_needs_stamped() then
            perform setval('pushq.needs_stamped', 0);
        end if;
    end if;
exception
    when lock_not_available then
        null;  -- somebody changes rules
end
$$;
create trigger resources_note_rules
after insert or delete or update or truncate on pushq.resources
for each statement execute function pushq.note_rules();
create trigger queues_note_rules
after update of capacity, rate, burst, fair on pushq.queues
for each statement execute function pushq.note_rules();
create trigger queues_note_new_rules
after insert on pushq.queues
for each row when (new.capacity is not null or new.rate is not null or new.fair is not null) execute function pushq.note_rules();
create trigger tasks_note_rules
after update of needs on pushq.tasks
for each row when (new.needs is distinct from old.needs) execute function pushq.note_rules();
create trigger tasks_note_new_rules
after insert on pushq.tasks
for each row when (new.needs is not null) execute function pushq.note_rules();


-- Rights ---------------------------------------------------------------------------------------------------------

revoke execute on function pushq.set_lane(), pushq.note_rules(), pushq.rest_needs() from public;

do $$
begin
    execute replace(replace(
        pg_get_functiondef('pushq.grant_to_tenants()'::regprocedure),
        'webhook_url, traceparent, finished_on)', 'webhook_url, traceparent, needs, limit_key, affinity, finished_on)'),
        'waiters, webhook_url, traceparent)', 'waiters, webhook_url, traceparent, needs, limit_key, affinity)');
    if pushq.is_separated() and to_regrole('pushq_tenant') is not null then
        perform pushq.grant_to_tenants();
    end if;
end
$$;
