-- The queue as a table: the columns of a job, the partitions of rows, and the rules that hold when no Python runs.
--
-- pushq.jobs is one partitioned table. Unfinished jobs live in the small partition pushq.jobs_unfinished. Claims, producers and
-- vacuum touch no other partition. When an outcome is written, the job's row moves to the partition of a day. So nothing on the
-- hot path grows with history, and retention drops whole days.

-- Only if missing, since an administrator may have made the schema: `create schema if not exists` needs a right on the
-- database.
do $$
begin
    if to_regnamespace('pushq') is null then
        create schema pushq;
    end if;
end
$$;

-- The applied migrations, and when. The schema itself tells its version as well, by pushq.schema_version(): a dump of the
-- schema alone has no rows, and a test suite may empty every table.
create table pushq.migrations (
    version int primary key,
    name text not null,
    applied_at timestamptz not null default now()
);
insert into pushq.migrations (version, name) values (1, '0001_jobs');

create function pushq.schema_version() returns int language sql stable parallel safe return 1;


-- Ids ------------------------------------------------------------------------------------------------------------

-- A time-ordered UUID (RFC 9562, version 7): built in from PostgreSQL 18 on; before, made in the same layout, with the
-- time in units of 1/4096 ms (method 3), so that the ids of an INSERT ascend.
do $$
begin
    if pg_catalog.to_regprocedure('pg_catalog.uuidv7()') is not null then
        create function pushq.uuidv7() returns uuid
        language sql volatile parallel safe
        return pg_catalog.uuidv7();
    else
        create function pushq.uuidv7() returns uuid
        language sql volatile parallel safe
        return (
            overlay(
                lpad(to_hex((extract(epoch from clock_timestamp()) * 1000 * 4096)::bigint), 15, '0')
                placing '7' from 13 for 0)
            || right(gen_random_uuid()::text, 17))::uuid;
    end if;
end
$$;


-- Crashes --------------------------------------------------------------------------------------------------------

-- A job whose process dies is charged a crash. This number of crashes ends the job as failed.
create function pushq.most_crashes() returns int language sql immutable parallel safe return 3;

-- The error of a job after a crash.
create function pushq.crash_error(crashes int) returns text
language sql immutable parallel safe
return 'ProcessDied: the process that ran the job died (crash ' || crashes || ' of ' || pushq.most_crashes() || ')';


-- The table ------------------------------------------------------------------------------------------------------

create table pushq.jobs (
    -- the producer's columns
    id uuid not null default pushq.uuidv7(),
    task text not null,
    payload jsonb not null default '{}',
    queue text not null default 'default',
    priority smallint not null default 0,
    run_at timestamptz not null default now(),
    max_attempts int,
    timeout interval,
    unique_key text,
    tenant_id text,
    correlation_id text,
    submitted_by text not null default session_user,

    -- pushq's columns
    status text not null default 'queued',
    attempt int not null default 0,
    failures int not null default 0,
    crashes int not null default 0,
    apart text,
    payload_is_too_long boolean,
    enqueued_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    supervisor text,
    pool int,
    token uuid,
    error text,
    traceback text,
    result jsonb,
    finished_on date not null default 'infinity'
) partition by range (finished_on);

comment on table pushq.jobs is
    'One row a job. Insert (task, payload) to run one; everything else has a default.';
comment on column pushq.jobs.token is
    'The fence: a random value of the claim that holds the job. An outcome without the same token is refused. A finished row keeps the token, so that a repeated finish, after a lost reply, differs from a late one.';
comment on column pushq.jobs.traceback is
    'The traceback of the last attempt''s error, as Python prints it, at most the last 16 KiB. Null after a success, or if no code of the handler raised the error.';
comment on column pushq.jobs.apart is
    'The strongest reason why claims leave out the queued job, or null. solo: one more crash would end the job, so the job runs in a process of its own.';
comment on column pushq.jobs.payload_is_too_long is
    'True if numbers in the payload have so many digits that the payload''s text exceeds 256 KiB plus 32 times the stored size. Such a payload is never read: the job fails at its start.';
comment on column pushq.jobs.finished_on is
    'Partition key: infinity until the job is finished, then the day whose partition holds the row.';

create table pushq.jobs_unfinished
partition of pushq.jobs (
    constraint jobs_unfinished_id_is_unique primary key (id)
)
for values from ('infinity') to (maxvalue)
with (
    fillfactor = 70,
    -- Rows live for milliseconds: vacuum by count, not by share, and never wait between pages. To truncate the file would
    -- take a lock that stops everybody, and the file would only grow again.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0,
    vacuum_index_cleanup = on,
    vacuum_truncate = off
);

create unique index jobs_unfinished_unique_key
on pushq.jobs_unfinished (tenant_id, unique_key) nulls not distinct
where unique_key is not null;

-- The jobs that claims take: a line for each task in a queue, so that a claim passes neither jobs of unknown tasks nor jobs
-- that are due later. Names are ordered by bytes, as in Python.
create index jobs_unfinished_claimable
on pushq.jobs_unfinished (queue collate "C", task collate "C", run_at, id)
where status = 'queued' and apart is null and priority = 0;

-- The same for jobs of other priorities than 0, on two shelves for each task. One shelf holds jobs that were due when inserted,
-- by priority. The other holds jobs for later, retried jobs included, by run_at.
create index jobs_unfinished_claimable_by_priority
on pushq.jobs_unfinished (
    queue collate "C", sign(priority), task collate "C",
    (case when run_at <= enqueued_at then priority else -32769 end), run_at, id)
where status = 'queued' and apart is null and priority <> 0;

-- The jobs that claims leave out.
create index jobs_unfinished_apart
on pushq.jobs_unfinished (apart, queue, priority, run_at, id)
where status = 'queued' and apart is not null;

create index jobs_unfinished_running
on pushq.jobs_unfinished (supervisor, pool)
where status = 'running';


-- Rules ----------------------------------------------------------------------------------------------------------

-- The name of the first rule that a row of pushq.jobs_unfinished breaks, or null. A refusal names the rule as a constraint.
--
-- The rules are no CHECKs: PostgreSQL reads each CHECK anew for every statement, which took a third of the time of a single INSERT.
create function pushq.broken_rule(
    task text, payload jsonb, queue text, run_at timestamptz, max_attempts int, timeout interval, unique_key text,
    tenant_id text, correlation_id text, submitted_by text, status text, attempt int, failures int, crashes int,
    started_at timestamptz, finished_at timestamptz, finished_on date, supervisor text, pool int, token uuid)
returns text
language sql stable parallel safe
begin atomic
    select case
        when length(correlation_id) not between 1 and 200 then 'jobs_correlation_id_has_1_to_200_characters'
        when least(attempt, failures, crashes) < 0 then 'jobs_counts_are_not_negative'
        when (finished_at is null) <> (finished_on = 'infinity') then 'jobs_finished_job_has_an_instant'
        when (status in ('queued', 'running')) <> (finished_on = 'infinity') then 'jobs_finished_status_has_a_day'
        when max_attempts not between 1 and 10000 then 'jobs_max_attempts_is_1_to_10000'
        -- The || unpacks a payload that comes compressed from another table, and copies nothing.
        when pg_column_size(payload || '{}') > 1048576 then 'jobs_payload_is_at_most_1_mib'
        when jsonb_typeof(payload) <> 'object' then 'jobs_payload_is_object'
        when length(queue) not between 1 and 200 then 'jobs_queue_has_1_to_200_characters'
        when status = 'queued' and token is not null then 'jobs_queued_job_has_no_owner'
        when run_at < '1970-01-01 00:00:00+00' or run_at >= '9999-01-01 00:00:00+00'
            then 'jobs_run_at_is_between_1970_and_9999'
        when status = 'running' and (token is null or supervisor is null or pool is null or started_at is null)
            then 'jobs_running_job_has_an_owner'
        when length(submitted_by) not between 1 and 200 then 'jobs_submitted_by_has_1_to_200_characters'
        when length(task) not between 1 and 200 then 'jobs_task_has_1_to_200_characters'
        when length(tenant_id) not between 1 and 200 then 'jobs_tenant_id_has_1_to_200_characters'
        when timeout <= interval '0' or timeout > interval '1 year' then 'jobs_timeout_is_positive_and_at_most_a_year'
        when length(unique_key) not between 1 and 200 then 'jobs_unique_key_has_1_to_200_characters'
    end;
end;

-- Raises check_violation, as PostgreSQL does for a CHECK of this name.
create function pushq.refuse_job(broken_rule text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'check_violation', schema = 'pushq', table = 'jobs_unfinished', constraint = broken_rule,
        message = format('new row for relation "jobs_unfinished" violates check constraint "%s"', broken_rule),
        detail = format('The rule: %s.', replace(substr(broken_rule, 6), '_', ' '));
end
$$;

-- A number may have ten thousand times more digits than stored bytes: 9 KB of payload can be 80 MB of text, which each claim
-- would write out. So the producer pays for a test, once. Small payloads are tested as text, which is quick. The text of large
-- payloads may take minutes, so their numbers are tested.
create function pushq.may_have_long_numbers(payload jsonb) returns boolean
language sql stable parallel safe
begin atomic
    select case
        when pg_column_size(payload) <= 64 then false
        when pg_column_size(payload || '{}') <= 2048 then octet_length(payload::text) > 262144
        else jsonb_path_exists(
            payload, 'strict $.**{last} ? (@ >= 1e400 || @ <= -1e400 || (@ < 1e-400 && @ > -1e-400 && @ != 0))')
    end;
end;

-- Whether the payload's text exceeds 256 KiB plus 32 times the stored size: true, or null.
create function pushq.is_too_long(payload jsonb) returns boolean
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    left_over bigint := 262144 + 32 * pg_column_size(payload || '{}');
    number numeric;
begin
    for number in select jsonb_path_query(payload, 'strict $.**{last} ? (@.type() == "number")') loop
        left_over := left_over - length(number::text);
        if left_over < 0 then
            return true;
        end if;
    end loop;
    return null;
end
$$;

-- Refuses a row that breaks a rule, and marks a payload whose numbers are too long.
create function pushq.check_job() returns trigger
language plpgsql
as $$
declare
    broken_rule pg_catalog.text := pushq.broken_rule(
        new.task, new.payload, new.queue, new.run_at, new.max_attempts, new.timeout, new.unique_key, new.tenant_id,
        new.correlation_id, new.submitted_by, new.status, new.attempt, new.failures, new.crashes, new.started_at,
        new.finished_at, new.finished_on, new.supervisor, new.pool, new.token);
begin
    if broken_rule is not null then
        perform pushq.refuse_job(broken_rule);
    end if;
    if new.payload_is_too_long is not null or pushq.may_have_long_numbers(new.payload) then
        new.payload_is_too_long := pushq.is_too_long(new.payload);
    end if;
    return new;
end
$$;

-- Triggers fire in the order of their names. These names begin with zz, so that users' triggers have changed the row before.
-- The columns are the producer's, since a claim changes none of them, and pays nothing.
create trigger zz_check_job
before insert or update of
    task, payload, queue, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, submitted_by,
    payload_is_too_long
on pushq.jobs_unfinished
for each row execute function pushq.check_job();

-- The rules for pushq's own columns, at every UPDATE.
create trigger zz_check_state
before update on pushq.jobs_unfinished
for each row
when (
    (new.status in ('queued', 'running')) <> (new.finished_on = 'infinity')
    or (new.finished_at is null) <> (new.finished_on = 'infinity')
    or (new.status = 'queued' and new.token is not null)
    or (new.status = 'running' and not (new.token, new.supervisor, new.pool, new.started_at) is not null)
    or least(new.attempt, new.failures, new.crashes) < 0)
execute function pushq.check_job();

-- Always, also in a session that replays a replication stream.
alter table pushq.jobs_unfinished enable always trigger zz_check_job;
alter table pushq.jobs_unfinished enable always trigger zz_check_state;


-- Reasons to stand apart -----------------------------------------------------------------------------------------

-- The strongest reason why claims leave a job out, or null.
create function pushq.apart(crashes int) returns text
language sql immutable parallel safe
return case when crashes >= pushq.most_crashes() - 1 then 'solo' end;

create function pushq.set_apart() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    new.apart := pushq.apart(new.crashes);
    return new;
end
$$;

-- For every change of crashes, by pushq or by hand. Claims and finishes change no crashes, and do not pay.
create trigger jobs_set_apart
before update of crashes on pushq.jobs_unfinished
for each row
when (old.crashes <> new.crashes)
execute function pushq.set_apart();
alter table pushq.jobs_unfinished enable always trigger jobs_set_apart;


-- Days -----------------------------------------------------------------------------------------------------------

-- The days (UTC) whose partitions are attached: a copy of the catalogue that a finish reads quickly. A day with retired_at is
-- empty, and waits for its partition to be dropped.
create table pushq.days (
    day date primary key,
    retired_at timestamptz
);

create function pushq.utc_today() returns date
language sql stable parallel safe
return (now() at time zone 'utc')::date;

-- The days whose partitions are attached, by the catalogue.
create function pushq.attached_days() returns setof date
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select to_date(partition.relname::text, '"jobs_"YYYY_MM_DD')
    from pg_inherits
    join pg_class as partition on partition.oid = inhrelid
    where inhparent = 'pushq.jobs'::regclass and not inhdetachpending
    and partition.relname ~ '^jobs_[0-9]{4}_[0-9]{2}_[0-9]{2}$';
end
$$;

-- The current day, for a pushq.days that has lost its rows. A separate function, so that a finish pays only if needed.
create function pushq.current_day_by_catalogue() returns date
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(
        (select max(day) from pushq.attached_days() as day where day <= pushq.utc_today()),
        (select min(day) from pushq.attached_days() as day));
end
$$;

-- The day that takes finished rows now: the newest existing day that is not after today, so that a late sweeper does no harm.
-- If the clock stands before all days, the oldest day.
create function pushq.current_day() returns date
language sql stable parallel safe
return coalesce(
    (select max(day) from pushq.days where day <= pushq.utc_today() and retired_at is null),
    (select min(day) from pushq.days where retired_at is null),
    pushq.current_day_by_catalogue());

-- Makes the missing partitions of today and of the days ahead, and makes pushq.days agree with the catalogue. Returns the new
-- days. To attach a partition takes no lock for which open INSERTs must wait. Security definer: a supervisor need not own the
-- table.
--
-- A day is made like the table at the moment, with generated columns that users have added. Indexes, keys and triggers come
-- with the attachment. Identity is not copied: its values would be made anew for each row that moves to a day. The rules of a
-- day are CHECKs: a finish, which writes many rows with one statement, can afford them.
create function pushq.make_days(ahead int default 3) returns setof date
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    the_day date;
    its_table text;
begin
    begin
        -- Not an advisory lock, which any role could hold for ever.
        lock table pushq.days in share update exclusive mode nowait;
    exception when lock_not_available then
        return;  -- another sweeper is making days
    end;
    return query
    insert into pushq.days as noted (day)
    select attached.day from pushq.attached_days() as attached (day)
    where attached.day not in (select known.day from pushq.days as known)  -- `on conflict` would wait for locked rows
    on conflict do nothing
    returning noted.day;
    delete from pushq.days as noted
    where case
        when noted.retired_at is null then noted.day not in (select pushq.attached_days())
        else to_regclass(to_char(noted.day, '"pushq.jobs_"YYYY_MM_DD')) is null
    end;
    for the_day in
        select wanted::date
        from generate_series(pushq.utc_today(), pushq.utc_today() + ahead, interval '1 day') as wanted
        where wanted::date not in (select day from pushq.days)
        order by wanted
    loop
        its_table := to_char(the_day, '"jobs_"YYYY_MM_DD');
        execute format(
            'create table pushq.%I (like pushq.jobs including defaults including constraints including generated '
            'including storage including compression, constraint %I check (finished_on = %L::date), '
            'constraint jobs_status_is_known check (status in (''queued'', ''running'', ''succeeded'', ''failed'', ''cancelled'')), '
            'constraint jobs_finished_status_has_a_day check (status not in (''queued'', ''running'')), '
            'constraint jobs_finished_job_has_an_instant check (finished_at is not null)) '
            'with (autovacuum_analyze_scale_factor = 0.2)',
            its_table, its_table || '_day', the_day);
        execute format('create index %I on pushq.%I (id)', its_table || '_id', its_table);
        -- For lists of failed and cancelled jobs among millions that succeeded: the newest, and the newest of a task.
        execute format(
            'create index %I on pushq.%I (id) where status <> ''succeeded''', its_table || '_unsuccessful', its_table);
        execute format(
            'create index %I on pushq.%I (task, id) where status <> ''succeeded''', its_table || '_unsuccessful_task',
            its_table);
        -- For publications of all tables: the retry of a finished job deletes a row here. Costs no index, and costs nothing
        -- without logical replication.
        execute format('alter table pushq.%I replica identity full', its_table);
        execute format(
            'alter table pushq.jobs attach partition pushq.%I for values from (%L) to (%L)',
            its_table, the_day, the_day + 1);
        insert into pushq.days (day) values (the_day);
        return next the_day;
    end loop;
end
$$;

-- Empties the days whose rows are all older than keep, and returns the emptied days. A sweeper that owns the table later drops
-- the empty partitions. A day with open readers is left for the next time. A day that a user has detached stays the user's. A
-- day that cannot be emptied, for example because of a user's trigger, is returned with the trouble, and the other days are
-- emptied.
create function pushq.retire_days(keep interval) returns table (day date, trouble text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
#variable_conflict use_column
declare
    the_day date;
begin
    if keep <= interval '0' then
        raise exception 'pushq.retire_days(%): give the time for which finished jobs are kept', keep;
    end if;
    for the_day in
        select older.day
        from pushq.days as older
        where older.retired_at is null
        and older.day in (select pushq.attached_days())
        and exists (
            select from pushq.days as newer
            where newer.day > older.day
            and newer.day <= (now() - keep) at time zone 'utc')
        order by older.day
        for update skip locked
    loop
        begin
            execute format('truncate table pushq.%I', to_char(the_day, '"jobs_"YYYY_MM_DD'));
        exception
            when lock_not_available then
                continue;
            when others then
                return query select the_day, format('%s (%s)', sqlerrm, sqlstate);
                continue;
        end;
        update pushq.days set retired_at = now() where day = the_day;
        return query select the_day, null::text;
    end loop;
end
$$;

-- Both functions act with the owner's rights, so a producer must not call them.
revoke execute on function pushq.make_days(int), pushq.retire_days(interval) from public;

select pushq.make_days();
