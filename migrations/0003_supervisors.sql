-- Who runs jobs: supervisors with their leases, the tasks and queues that any of them has known, and the tallies from
-- which /metrics is served.

insert into pushq.migrations (version, name) values (3, '0003_supervisors');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 3;

-- One row a live supervisor. heartbeat counts up with every sign of life: a sweeper trusts an expired lease only when
-- this has stood still too, since a pause of the database makes every living supervisor's lease expire.
create table pushq.supervisors (
    name text primary key,
    host text not null,
    pid int not null,
    started_at timestamptz not null default now(),
    heartbeat bigint not null default 0,
    lease interval not null,
    lease_until timestamptz not null,
    tasks text[] not null default '{}',
    queues text[] not null default '{}'
) with (fillfactor = 50);

-- Queues that a supervisor has served, or that somebody has paused; '*' stands for all.
create table pushq.queues (
    name text primary key,
    served_since timestamptz,
    paused_at timestamptz,
    constraint queues_name_has_1_to_200_characters check (length(name) between 1 and 200)
);

-- Tasks that a supervisor has known.
create table pushq.tasks (
    name text primary key,
    known_since timestamptz not null default now()
);

-- The pairs of a queue and a task that metrics name; all others are counted as ('_other', '_other'). Tasks on the queue
-- with which they are registered need no place. Of the pairs beside them, which rows make, the first thousand to have an
-- outcome take one each. A pair that has labels keeps them, so that no counter ever falls.
create table pushq.labels (
    queue text not null,
    task text not null,
    place smallint unique,
    primary key (queue, task),
    constraint labels_place_is_1_to_1000 check (place between 1 and 1000)
);
insert into pushq.labels (queue, task) values ('_other', '_other');

-- Tallies of what happened to jobs. Each statement that changes jobs appends to tally_log, once a batch; a sweeper folds
-- the log into tallies. The two added up are the counters of /metrics: the same from every supervisor, whatever
-- retention drops.
--   outcome      succeeded, failed, cancelled: a job finished; retried, requeued: an attempt ended and the job goes on
--   run_bucket   how many of pushq.run_bounds() the last attempt's run exceeded; -1: it never ran
--   wait_bucket  the same for its wait, from due to started, and pushq.wait_bounds()
create table pushq.tallies (
    queue text not null,
    task text not null,
    outcome text not null,
    run_bucket smallint not null,
    wait_bucket smallint not null,
    jobs bigint not null,
    run_seconds double precision not null,
    wait_seconds double precision not null,
    primary key (queue, task, outcome, run_bucket, wait_bucket)
) with (fillfactor = 50);

create table pushq.tally_log (
    queue text not null,
    task text not null,
    outcome text not null,
    run_bucket smallint not null,
    wait_bucket smallint not null,
    jobs bigint not null,
    run_seconds double precision not null,
    wait_seconds double precision not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
alter table pushq.tally_log replica identity full;  -- it is folded by deleting: without, no publication may hold it

-- Unfinished jobs, counted in the background. One row a queue and status.
create table pushq.census (
    queue text not null,
    status text not null,
    jobs bigint not null,
    oldest_due_at timestamptz,
    primary key (queue, status)
);

-- When the census was taken and how long it took: the next one waits for a hundred times that.
create table pushq.census_clock (
    only_row boolean primary key default true check (only_row),
    taken_at timestamptz not null default '-infinity',
    took interval not null default '0'
);
insert into pushq.census_clock default values;

-- Upper bounds of the histograms' buckets, in seconds.
create function pushq.run_bounds() returns double precision[]
language sql immutable parallel safe
return array[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600]::double precision[];

create function pushq.wait_bounds() returns double precision[]
language sql immutable parallel safe
return array[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200]::double precision[];

-- How many bounds a duration exceeds. Instants have microseconds: half of one taken off makes "equal" stay below.
create function pushq.bucket(duration interval, bounds double precision[]) returns smallint
language sql immutable parallel safe
return coalesce(width_bucket(extract(epoch from duration)::double precision - 0.0000005, bounds), -1)::smallint;

-- From due to started.
create function pushq.waited(run_at timestamptz, enqueued_at timestamptz, started_at timestamptz) returns interval
language sql immutable parallel safe
return greatest(started_at - greatest(run_at, enqueued_at), interval '0');

-- Whether a pair of a queue and a task has labels, after giving it a place if one is left. For statements of pushq's own
-- alone: it holds up others that would take a place until the transaction ends. Where somebody else holds it up for too
-- long, the pair has none yet, and neither has any after it in the same transaction, which waits no more.
create function pushq.label(queue text, task text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
begin
    if current_setting('pushq.labels', true) = 'held' then
        return false;
    elsif not exists (select from pushq.labels as known where known.queue = label.queue and known.task = label.task)
        and not exists (select from pushq.labels where place = 1000) then
        -- By turns, so that nobody takes a place twice. The row may be missing: somebody has emptied the table.
        insert into pushq.labels (queue, task) values ('_other', '_other')
        on conflict on constraint labels_pkey do update set place = null;

        insert into pushq.labels (queue, task, place)
        select label.queue, label.task, coalesce(max(place), 0) + 1
        from pushq.labels
        having coalesce(max(place), 0) < 1000
        on conflict on constraint labels_pkey do nothing;
    end if;
    return exists (select from pushq.labels as known where known.queue = label.queue and known.task = label.task);
exception when lock_not_available then
    perform set_config('pushq.labels', 'held', true);
    return false;
end
$$;


-- Claims ---------------------------------------------------------------------------------------------------------
--
-- A claim reads nothing that it cannot take. What may be claimed lies in lanes, one a task in a queue, and a claim finds those
-- that there are and that it knows by leaping: from a task that it knows to the first that exists from there on, from that
-- to the next that it knows.
--
--     known      a       c       e       g            tasks: sorted by their bytes
--     existing       b   c   d                 z
--     looks      a ──▶   c ▶ e ───────────────▶       so a million tasks of others between two of ours cost nothing
--
-- Jobs of priority 0 lie in jobs_unfinished_claimable, each lane in the order of run_at: what is due comes first. Those of
-- other priorities lie in jobs_unfinished_claimable_by_priority, each lane's on two shelves:
--
--     was due when inserted     priority -20: a b c   priority -3: d e      all of it is due, so each priority yields a job
--     was for later             by run_at: f g h │ i j k                     due so far │ not yet
--
-- They are functions so that the plan of what a claim does not need is not even begun, and that plans are kept. What they are
-- given is named with the function before it, and each column with its table: somebody may have added columns.

-- Claims up to `most` due jobs of the queues and the tasks for a pool of its_supervisor, under its_token.
create function pushq.claim(
    queues text[], tasks text[], its_supervisor text, its_pool int, its_token uuid, most int, since timestamptz,
    due_by timestamptz)
returns table (
    id uuid, task text, queue text, payload text, attempt int, failures int, crashes int, max_attempts int,
    timeout double precision, tenant_id text, correlation_id text, token uuid)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    ids uuid[] := pushq.lock_claimable(
        claim.queues, claim.tasks, claim.its_supervisor, claim.most, claim.since, claim.due_by);
begin
    if cardinality(ids) = 0 then
        return;
    end if;
    return query
    update pushq.jobs_unfinished as job
    set status = 'running',
        attempt = job.attempt + (job.attempt < 2147483647)::int,
        supervisor = claim.its_supervisor,
        pool = claim.its_pool,
        token = claim.its_token,
        started_at = clock_timestamp()
    from (select ids as locked) as these
    where job.id = any(these.locked)
    returning
        job.id, job.task, job.queue,
        case
            when job.payload_is_too_long or pg_column_size(job.payload) > 8192 then null
            when pg_column_size(job.payload || '{}') > 8192 then null  -- unpacked, where it is kept compressed
            when octet_length(job.payload::text) <= 65536 then job.payload::text  -- a number's digits may be many
        end,
        job.attempt, job.failures, job.crashes, job.max_attempts,
        extract(epoch from job.timeout)::float8, job.tenant_id, job.correlation_id, job.token;
end
$$;

-- Locks up to `most` due jobs of the queues (in their order, within a priority) and the tasks, the most urgent first, and
-- returns their ids. None when the supervisor's lease has run out: a sweeper may be taking its jobs away at this moment.
-- What became due before `since` or after due_by is not looked at. Where it is fewer there were no more, but for such as
-- somebody else has locked.
create function pushq.lock_claimable(
    queues text[], tasks text[], its_supervisor text, most int, since timestamptz, due_by timestamptz)
returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    has_priorities boolean;
    open_queues text[];
    lease_is_live boolean;
    ids uuid[] := '{}';
begin
    -- The jobs' table is locked first, as it is by whatever else takes more than one: who truncates them all is in no deadlock.
    select
        exists (
            select
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.crashes < 2 and job.priority <> 0
            and job.queue collate "C" = any(lock_claimable.queues) and job.run_at >= lock_claimable.since),
        array(
            select queue.name
            from unnest(lock_claimable.queues) with ordinality as queue (name, position)
            where not exists (
                select from pushq.queues as paused
                where paused.name in (queue.name, '*') and paused.paused_at is not null)
            order by queue.position),
        exists (
            select from pushq.supervisors as live
            where live.name = lock_claimable.its_supervisor and live.lease_until > now())
    into has_priorities, open_queues, lease_is_live;
    if not lease_is_live then
        return '{}';
    end if;

    if has_priorities then
        ids := pushq.lock_by_priority(-1, open_queues, tasks, most, since, due_by);
    end if;
    if cardinality(ids) < most then
        ids := ids || pushq.lock_ordinary(open_queues, tasks, most - cardinality(ids), since, due_by);
    end if;
    if has_priorities and cardinality(ids) < most then
        ids := ids || pushq.lock_by_priority(1, open_queues, tasks, most - cardinality(ids), since, due_by);
    end if;
    return ids;
end
$$;

-- Locks up to `most` due jobs of priority 0, and returns their ids: queue by queue, and in a queue in the order of run_at,
-- give or take a hundredth of the time for which its oldest job is due.
--
-- The lanes of a queue take turns. A turn lasts until the head of the lane that is second in line, and for that hundredth at
-- least, so that tasks whose jobs were inserted alternately need not take a turn a job. The turns come one by one from a
-- recursion that is carried out as its rows are read. heads: when the oldest job of each lane is due, in this turn or a later
-- one; null: the lane has no more.
create function pushq.lock_ordinary(queues text[], tasks text[], most int, since timestamptz, due_by timestamptz)
returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
<<its>>
declare
    ids uuid[] := '{}';
    queue text;
    lanes text[];
    firsts timestamptz[];
begin
    foreach its.queue in array lock_ordinary.queues loop
        with recursive existing as (
            select ''::text collate "C" as task, null::timestamptz as run_at, null::uuid as id
            union all
            select following.*
            from existing
            cross join lateral (
                select job.task collate "C" as task, job.run_at, job.id
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.crashes < 2 and job.priority = 0
                and job.queue = its.queue collate "C"
                and job.task >= lock_ordinary.tasks[width_bucket(existing.task, lock_ordinary.tasks) + 1] collate "C"
                and job.run_at >= lock_ordinary.since
                order by job.task collate "C", job.run_at, job.id
                limit 1
            ) as following
        )
        select
            array_agg(existing.task order by existing.run_at, existing.id),
            array_agg(existing.run_at order by existing.run_at, existing.id)
        into its.lanes, its.firsts
        from existing
        where existing.task = lock_ordinary.tasks[width_bucket(existing.task, lock_ordinary.tasks)]
        and existing.run_at <= lock_ordinary.due_by;

        if its.lanes is null then
            continue;
        end if;
        if cardinality(its.lanes) = 1 then
            its.ids := its.ids || array(
                select job.id
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.crashes < 2 and job.priority = 0
                and job.queue = its.queue collate "C" and job.task = its.lanes[1] collate "C"
                and job.run_at >= its.firsts[1] and job.run_at <= lock_ordinary.due_by
                order by job.run_at, job.id
                limit lock_ordinary.most - cardinality(its.ids)
                for no key update skip locked);
        else
            its.ids := its.ids || array(
                with recursive turn as (
                    select
                        its.firsts as heads,
                        greatest(its.firsts[2], its.firsts[1] + (lock_ordinary.due_by - its.firsts[1]) / 100) as until
                    union all
                    select
                        line.heads,
                        greatest(
                            coalesce(line.second, lock_ordinary.due_by),
                            line.first + (lock_ordinary.due_by - line.first) / 100)
                    from turn
                    cross join lateral (
                        select
                            array_agg(lane.head order by lane.number) as heads, min(lane.head) as first,
                            (array_agg(lane.head order by lane.head))[2] as second
                        from (
                            select
                                lane.number,
                                case when turn.heads[lane.number] > turn.until then turn.heads[lane.number]
                                when turn.heads[lane.number] is not null then (
                                    select job.run_at
                                    from pushq.jobs_unfinished as job
                                    where job.status = 'queued' and job.crashes < 2 and job.priority = 0
                                    and job.queue = its.queue collate "C" and job.task = lane.task collate "C"
                                    and job.run_at > turn.until and job.run_at <= lock_ordinary.due_by
                                    order by job.run_at
                                    limit 1
                                ) end as head
                            from unnest(its.lanes) with ordinality as lane (task, number)
                            offset 0  -- so that each head is looked for once
                        ) as lane
                    ) as line
                    where turn.until < lock_ordinary.due_by
                )
                select job.id
                from turn
                cross join lateral (
                    select lane.task, turn.heads[lane.number] as head
                    from unnest(its.lanes) with ordinality as lane (task, number)
                    where turn.heads[lane.number] <= turn.until
                    order by turn.heads[lane.number], lane.number
                ) as lane
                cross join lateral (
                    select job.id
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.crashes < 2 and job.priority = 0
                    and job.queue = its.queue collate "C" and job.task = lane.task collate "C"
                    and job.run_at >= lane.head and job.run_at <= turn.until
                    order by job.run_at, job.id
                    limit lock_ordinary.most
                    for no key update skip locked
                ) as job
                limit lock_ordinary.most - cardinality(its.ids));
        end if;
        exit when cardinality(its.ids) >= lock_ordinary.most;
    end loop;
    return its.ids;
end
$$;

-- The lanes of known tasks that hold jobs of more urgent priorities than 0 (side -1), or of less urgent ones (side 1), in the
-- order of the queues. And of each the first job: its level is -32769 where it lies on the shelf for later, else its priority.
create function pushq.lanes_by_priority(side int, queues text[], tasks text[], since timestamptz)
returns table (place bigint, its_queue text, its_task text, first_level int, first_due timestamptz)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with recursive existing as (
        select
            open_queue.place, open_queue.name as queue, ''::text collate "C" as task, null::int as level,
            null::timestamptz as run_at
        from unnest(lanes_by_priority.queues) with ordinality as open_queue (name, place)
        union all
        select existing.place, existing.queue, following.*
        from existing
        cross join lateral (
            select
                job.task collate "C" as task,
                (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) as level,
                job.run_at
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.crashes < 2 and job.priority <> 0
            and job.queue = existing.queue collate "C" and sign(job.priority) = lanes_by_priority.side
            and job.task
                >= lanes_by_priority.tasks[width_bucket(existing.task, lanes_by_priority.tasks) + 1] collate "C"
            and job.run_at >= lanes_by_priority.since
            order by
                job.task collate "C",
                (case when job.run_at <= job.enqueued_at then job.priority else -32769 end),
                job.run_at
            limit 1
        ) as following
    )
    select existing.*
    from existing
    where existing.task = lanes_by_priority.tasks[width_bucket(existing.task, lanes_by_priority.tasks)]
    order by existing.place;
end
$$;

-- Locks up to `most` due jobs of one side of priority 0, and returns their ids: by priority, then by the order of the queues,
-- and there of the task first whose first job is due for longest.
--
-- The priorities come one by one, from a recursion that is carried out as its rows are read, so that no more of them are
-- looked for than jobs are wanted. heads: the next one of each lane, this one or one further on; null: none.
--
-- Of a lane's jobs for later a hundred more are looked at than are wanted, those first that are overdue for longest. The most
-- urgent ones are among them, unless more than that are overdue.
create function pushq.lock_by_priority(
    side int, queues text[], tasks text[], most int, since timestamptz, due_by timestamptz)
returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        with recursive lane as materialized (
            select
                lane.place, lane.its_queue as queue, lane.its_task as task, row_number() over () as number,
                case
                    when lane.first_level > -32769 and lane.first_due <= lock_by_priority.due_by then lane.first_level
                    else (
                        select (case when job.run_at <= job.enqueued_at then job.priority else -32769 end)
                        from pushq.jobs_unfinished as job
                        where job.status = 'queued' and job.crashes < 2 and job.priority <> 0
                        and job.queue = lane.its_queue collate "C" and sign(job.priority) = lock_by_priority.side
                        and job.task = lane.its_task collate "C"
                        and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) > -32769
                        and job.run_at >= lock_by_priority.since and job.run_at <= lock_by_priority.due_by
                        order by (case when job.run_at <= job.enqueued_at then job.priority else -32769 end)
                        limit 1
                    )
                end as prompt,
                late.priorities, late.instants, late.ids
            from pushq.lanes_by_priority(
                lock_by_priority.side, lock_by_priority.queues, lock_by_priority.tasks, lock_by_priority.since) as lane
            cross join lateral (
                select
                    array_agg(job.priority) as priorities, array_agg(job.run_at) as instants, array_agg(job.id) as ids
                from (
                    select job.priority, job.run_at, job.id
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.crashes < 2 and job.priority <> 0
                    and job.queue = lane.its_queue collate "C" and sign(job.priority) = lock_by_priority.side
                    and job.task = lane.its_task collate "C"
                    and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) = -32769
                    and job.run_at >= lock_by_priority.since and job.run_at <= lock_by_priority.due_by
                    and lane.first_level = -32769 and lane.first_due <= lock_by_priority.due_by
                    order by job.run_at, job.id
                    limit lock_by_priority.most + 100
                ) as job
            ) as late
        ),
        level as (
            select min(lane.head) as priority, array_agg(lane.head order by lane.number) as heads
            from (
                select
                    lane.number,
                    least(lane.prompt, (select min(late.priority) from unnest(lane.priorities) as late (priority))) as head
                from lane
            ) as lane
            union all
            select following.priority, following.heads
            from level
            cross join lateral (
                select min(lane.head) as priority, array_agg(lane.head order by lane.number) as heads
                from (
                    select
                        lane.number,
                        case
                            when level.heads[lane.number] > level.priority then level.heads[lane.number]
                            when level.heads[lane.number] = level.priority then least(
                                (
                                    select (case when job.run_at <= job.enqueued_at then job.priority else -32769 end)
                                    from pushq.jobs_unfinished as job
                                    where job.status = 'queued' and job.crashes < 2 and job.priority <> 0
                                    and job.queue = lane.queue collate "C"
                                    and sign(job.priority) = lock_by_priority.side
                                    and job.task = lane.task collate "C"
                                    and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) > level.priority
                                    and job.run_at >= lock_by_priority.since
                                    and job.run_at <= lock_by_priority.due_by
                                    order by (case when job.run_at <= job.enqueued_at then job.priority else -32769 end)
                                    limit 1
                                ),
                                (
                                    select min(late.priority)
                                    from unnest(lane.priorities) as late (priority)
                                    where late.priority > level.priority
                                ))
                        end as head
                    from lane
                    offset 0  -- so that it is not computed twice
                ) as lane
            ) as following
            where level.priority is not null
        )
        select locked.id
        from level
        cross join lateral (
            select lane.place
            from lane
            where level.heads[lane.number] = level.priority
            group by lane.place
            order by lane.place
        ) as of_queue
        cross join lateral (
            select lane.queue, lane.task, lane.priorities, lane.ids, shelf.is_late
            from lane
            cross join (values (false), (true)) as shelf (is_late)
            cross join lateral (
                select prompt.run_at, prompt.id
                from (
                    select job.run_at, job.id
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.crashes < 2 and job.priority <> 0
                    and job.queue = lane.queue collate "C" and sign(job.priority) = lock_by_priority.side
                    and job.task = lane.task collate "C"
                    and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) = level.priority
                    and job.run_at >= lock_by_priority.since and job.run_at <= lock_by_priority.due_by
                    order by job.run_at, job.id
                    limit 1
                ) as prompt
                where not shelf.is_late
                union all
                select lane.instants[late.number], lane.ids[late.number]
                from array_position(lane.priorities, level.priority::smallint) as late (number)
                where shelf.is_late and late.number is not null
            ) as first
            where lane.place = of_queue.place and level.heads[lane.number] = level.priority
            order by first.run_at, first.id
        ) as lane
        cross join lateral (
            select prompt.id
            from (
                select job.id
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.crashes < 2 and job.priority <> 0
                and job.queue = lane.queue collate "C" and sign(job.priority) = lock_by_priority.side
                and job.task = lane.task collate "C"
                and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) = level.priority
                and job.run_at >= lock_by_priority.since and job.run_at <= lock_by_priority.due_by
                order by job.run_at, job.id
                limit lock_by_priority.most
                for no key update skip locked
            ) as prompt
            where not lane.is_late
            union all
            select late.id
            from (
                select job.id
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.crashes < 2
                and job.id = any(array(
                    select late.id
                    from unnest(lane.priorities, lane.ids) as late (priority, id)
                    where late.priority = level.priority))
                order by job.run_at, job.id
                limit lock_by_priority.most
                for no key update skip locked
            ) as late
            where lane.is_late
        ) as locked
        limit lock_by_priority.most);
end
$$;

-- When the next job of the queues and the tasks is due of those that were not due before `since`; null: none is queued.
create function pushq.next_due(queues text[], tasks text[], since timestamptz) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    has_priorities boolean := exists (
        select
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.crashes < 2 and job.priority <> 0
        and job.queue collate "C" = any(next_due.queues) and job.run_at >= next_due.since);
    open_queues text[] := array(
        select queue.name
        from unnest(next_due.queues) as queue (name)
        where not exists (
            select from pushq.queues as paused where paused.name in (queue.name, '*') and paused.paused_at is not null));
    first_due timestamptz := (
        select min(lane.run_at)
        from unnest(open_queues) as open_queue (name)
        cross join lateral (
            with recursive existing as (
                select ''::text collate "C" as task, null::timestamptz as run_at
                union all
                select following.*
                from existing
                cross join lateral (
                    select job.task collate "C" as task, job.run_at
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.crashes < 2 and job.priority = 0
                    and job.queue = open_queue.name collate "C"
                    and job.task >= next_due.tasks[width_bucket(existing.task, next_due.tasks) + 1] collate "C"
                    and job.run_at >= next_due.since
                    order by job.task collate "C", job.run_at, job.id
                    limit 1
                ) as following
            )
            select existing.run_at
            from existing
            where existing.task = next_due.tasks[width_bucket(existing.task, next_due.tasks)]
        ) as lane);
begin
    if has_priorities then
        first_due := least(first_due, (
            select min(due.run_at)
            from (values (-1), (1)) as side (sign)
            cross join lateral pushq.lanes_by_priority(side.sign, open_queues, next_due.tasks, next_due.since) as lane
            cross join lateral (
                (
                    select job.run_at
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.crashes < 2 and job.priority <> 0
                    and job.queue = lane.its_queue collate "C" and sign(job.priority) = side.sign
                    and job.task = lane.its_task collate "C"
                    and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) = -32769
                    and job.run_at >= next_due.since
                    order by job.run_at, job.id
                    limit 1
                )
                union all
                -- They were due when they were inserted, unless the clock has been set back.
                (
                    select job.run_at
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.crashes < 2 and job.priority <> 0
                    and job.queue = lane.its_queue collate "C" and sign(job.priority) = side.sign
                    and job.task = lane.its_task collate "C"
                    and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) > -32769
                    and job.run_at >= next_due.since
                    order by (case when job.run_at <= job.enqueued_at then job.priority else -32769 end)
                    limit 100
                )
            ) as due));
    end if;
    return first_due;
end
$$;
