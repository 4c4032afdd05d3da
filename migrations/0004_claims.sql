-- How pools take jobs.
--
-- A claim reads no job that the claim cannot take. Each task in a queue has a line of jobs. A claim finds the existing lines of
-- known tasks by leaps: from a known task to the first existing task from there on, and from there to the next known task.
--
--     known      a       c       e       g            tasks: sorted by their bytes
--     existing       b   c   d                 z
--     looks      a ──▶   c ▶ e ───────────────▶       a million unknown tasks between two known ones cost nothing
--
-- Jobs of priority 0 lie in jobs_unfinished_claimable, each line in the order of run_at: due jobs come first. Jobs of other
-- priorities lie in jobs_unfinished_claimable_by_priority, each line on two shelves:
--
--     was due when inserted     priority -20: a b c   priority -3: d e      all jobs are due, so each priority yields one
--     was for later             by run_at: f g h │ i j k                     due so far │ not yet due
--
-- Functions keep their plans, and a part that a claim does not need is not even planned. Arguments are written with the name of
-- the function, and columns with the name of the table, because users may have added columns.

insert into pushq.migrations (version, name) values (4, '0004_claims');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 4;

-- A payload as text, for the reply to a claim. Null for a payload over 8 KiB, or 64 KiB as text, which a worker fetches at the
-- start of the job. The || unpacks a compressed payload, and copies nothing.
create function pushq.claimed_payload(payload jsonb, is_too_long boolean) returns text
language sql stable parallel safe
return case
    when is_too_long or pg_column_size(payload) > 8192 then null
    when pg_column_size(payload || '{}') > 8192 then null
    when octet_length(payload::text) <= 65536 then payload::text  -- a number may have many digits
end;

-- Sets jobs running, whose rows the caller has locked. Returns the jobs in the form for a pool; timeout in seconds.
create function pushq.claim_locked(ids uuid[], its_supervisor text, its_pool int, its_token uuid)
returns table (
    id uuid, task text, queue text, payload text, attempt int, failures int, crashes int, max_attempts int,
    timeout double precision, tenant_id text, correlation_id text, token uuid)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if cardinality(claim_locked.ids) = 0 then
        return;
    end if;
    return query
    update pushq.jobs_unfinished as job
    set status = 'running',
        attempt = job.attempt + (job.attempt < 2147483647)::int,
        supervisor = claim_locked.its_supervisor,
        pool = claim_locked.its_pool,
        token = claim_locked.its_token,
        started_at = clock_timestamp()
    where job.id = any(claim_locked.ids)
    returning
        job.id, job.task, job.queue, pushq.claimed_payload(job.payload, job.payload_is_too_long),
        job.attempt, job.failures, job.crashes, job.max_attempts,
        extract(epoch from job.timeout)::float8, job.tenant_id, job.correlation_id, job.token;
end
$$;

-- Locks up to `most` due jobs of the queues and the tasks, and returns the ids: the most urgent priority first, then the queues
-- in the given order. Returns no ids if the supervisor's lease has run out, since a sweeper may be taking away its jobs. Looks
-- only at jobs that became due between `since` and due_by. Fewer than `most`: no more jobs are due, except locked ones.
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
    -- Locks the table of jobs first, as every statement on several tables does, so that a TRUNCATE of all tables meets no
    -- deadlock.
    select
        exists (
            select
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.apart is null and job.priority <> 0
            and job.queue collate "C" = any(lock_claimable.queues) and job.run_at >= lock_claimable.since),
        array(select queue.name from pushq.open_queues(lock_claimable.queues) as queue order by queue.place),
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

-- The lines of known tasks in a queue that hold jobs of priority 0, each with its first job. PostgreSQL inlines the function.
create function pushq.ordinary_lines(its_queue text, tasks text[], since timestamptz)
returns table (its_task text, first_due timestamptz, first_id uuid)
language sql stable
begin atomic
    with recursive existing as (
        select ''::text collate "C" as task, null::timestamptz as run_at, null::uuid as id
        union all
        select following.*
        from existing
        cross join lateral (
            select job.task collate "C" as task, job.run_at, job.id
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.apart is null and job.priority = 0
            and job.queue = ordinary_lines.its_queue collate "C"
            and job.task >= ordinary_lines.tasks[width_bucket(existing.task, ordinary_lines.tasks) + 1] collate "C"
            and job.run_at >= ordinary_lines.since
            order by job.task collate "C", job.run_at, job.id
            limit 1
        ) as following
    )
    select existing.task, existing.run_at, existing.id
    from existing
    where existing.task = ordinary_lines.tasks[width_bucket(existing.task, ordinary_lines.tasks)];
end;

-- Locks up to `most` due jobs of priority 0, and returns the ids: queue by queue, and in a queue by run_at. The order may be
-- off by a hundredth of the time for which the queue's oldest job has been due.
--
-- The lines of a queue are merged by run_at, in turns. A turn ends where the second line begins, or after that hundredth if
-- that is later, so that tasks whose jobs were inserted alternately share a turn. A recursion yields the turns one by one, as its
-- rows are read. heads: when the oldest job of each line is due, in this turn or later; null: the line has no more jobs.
create function pushq.lock_ordinary(queues text[], tasks text[], most int, since timestamptz, due_by timestamptz)
returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
<<its>>
declare
    ids uuid[] := '{}';
    queue text;
    lines text[];
    firsts timestamptz[];
begin
    foreach its.queue in array lock_ordinary.queues loop
        select
            array_agg(line.its_task order by line.first_due, line.first_id),
            array_agg(line.first_due order by line.first_due, line.first_id)
        into its.lines, its.firsts
        from pushq.ordinary_lines(its.queue, lock_ordinary.tasks, lock_ordinary.since) as line
        where line.first_due <= lock_ordinary.due_by;

        if its.lines is null then
            continue;
        end if;
        if cardinality(its.lines) = 1 then
            its.ids := its.ids || array(
                select job.id
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority = 0
                and job.queue = its.queue collate "C" and job.task = its.lines[1] collate "C"
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
                        ahead.heads,
                        greatest(
                            coalesce(ahead.second, lock_ordinary.due_by),
                            ahead.first + (lock_ordinary.due_by - ahead.first) / 100)
                    from turn
                    cross join lateral (
                        select
                            array_agg(line.head order by line.number) as heads, min(line.head) as first,
                            (array_agg(line.head order by line.head))[2] as second
                        from (
                            select
                                line.number,
                                case when turn.heads[line.number] > turn.until then turn.heads[line.number]
                                when turn.heads[line.number] is not null then (
                                    select job.run_at
                                    from pushq.jobs_unfinished as job
                                    where job.status = 'queued' and job.apart is null and job.priority = 0
                                    and job.queue = its.queue collate "C" and job.task = line.task collate "C"
                                    and job.run_at > turn.until and job.run_at <= lock_ordinary.due_by
                                    order by job.run_at
                                    limit 1
                                ) end as head
                            from unnest(its.lines) with ordinality as line (task, number)
                            offset 0  -- so that each head is looked up once
                        ) as line
                    ) as ahead
                    where turn.until < lock_ordinary.due_by
                )
                select job.id
                from turn
                cross join lateral (
                    select line.task, turn.heads[line.number] as head
                    from unnest(its.lines) with ordinality as line (task, number)
                    where turn.heads[line.number] <= turn.until
                    order by turn.heads[line.number], line.number
                ) as line
                cross join lateral (
                    select job.id
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart is null and job.priority = 0
                    and job.queue = its.queue collate "C" and job.task = line.task collate "C"
                    and job.run_at >= line.head and job.run_at <= turn.until
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

-- The lines of known tasks that hold jobs of more urgent priorities than 0 (side -1), or of less urgent ones (side 1), in the
-- order of the queues, each with its first job. first_level: the job's priority, or -32769 for a job on the shelf for later.
create function pushq.lines_by_priority(side int, queues text[], tasks text[], since timestamptz)
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
        from unnest(lines_by_priority.queues) with ordinality as open_queue (name, place)
        union all
        select existing.place, existing.queue, following.*
        from existing
        cross join lateral (
            select
                job.task collate "C" as task,
                (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) as level,
                job.run_at
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.apart is null and job.priority <> 0
            and job.queue = existing.queue collate "C" and sign(job.priority) = lines_by_priority.side
            and job.task
                >= lines_by_priority.tasks[width_bucket(existing.task, lines_by_priority.tasks) + 1] collate "C"
            and job.run_at >= lines_by_priority.since
            order by
                job.task collate "C",
                (case when job.run_at <= job.enqueued_at then job.priority else -32769 end),
                job.run_at
            limit 1
        ) as following
    )
    select existing.*
    from existing
    where existing.task = lines_by_priority.tasks[width_bucket(existing.task, lines_by_priority.tasks)]
    order by existing.place;
end
$$;

-- Locks up to `most` due jobs of one side of priority 0, and returns the ids: by priority, then by the order of the queues,
-- then by task, beginning with the task whose first job has been due for longest.
--
-- A recursion yields the priorities one by one, as its rows are read, so that no more priorities are looked up than jobs are
-- wanted. heads: the next priority of each line, this or a later priority; null: none.
--
-- Of a line's jobs for later, `most` and a hundred more are read, the longest overdue first. The most urgent jobs are among
-- them, unless more jobs are overdue.
create function pushq.lock_by_priority(
    side int, queues text[], tasks text[], most int, since timestamptz, due_by timestamptz)
returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        with recursive line as materialized (
            select
                line.place, line.its_queue as queue, line.its_task as task, row_number() over () as number,
                case
                    when line.first_level > -32769 and line.first_due <= lock_by_priority.due_by then line.first_level
                    else (
                        select (case when job.run_at <= job.enqueued_at then job.priority else -32769 end)
                        from pushq.jobs_unfinished as job
                        where job.status = 'queued' and job.apart is null and job.priority <> 0
                        and job.queue = line.its_queue collate "C" and sign(job.priority) = lock_by_priority.side
                        and job.task = line.its_task collate "C"
                        and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) > -32769
                        and job.run_at >= lock_by_priority.since and job.run_at <= lock_by_priority.due_by
                        order by (case when job.run_at <= job.enqueued_at then job.priority else -32769 end)
                        limit 1
                    )
                end as prompt,
                late.priorities, late.instants, late.ids
            from pushq.lines_by_priority(
                lock_by_priority.side, lock_by_priority.queues, lock_by_priority.tasks, lock_by_priority.since) as line
            cross join lateral (
                select
                    array_agg(job.priority) as priorities, array_agg(job.run_at) as instants, array_agg(job.id) as ids
                from (
                    select job.priority, job.run_at, job.id
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart is null and job.priority <> 0
                    and job.queue = line.its_queue collate "C" and sign(job.priority) = lock_by_priority.side
                    and job.task = line.its_task collate "C"
                    and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) = -32769
                    and job.run_at >= lock_by_priority.since and job.run_at <= lock_by_priority.due_by
                    and line.first_level = -32769 and line.first_due <= lock_by_priority.due_by
                    order by job.run_at, job.id
                    limit lock_by_priority.most + 100
                ) as job
            ) as late
        ),
        level as (
            select min(line.head) as priority, array_agg(line.head order by line.number) as heads
            from (
                select
                    line.number,
                    least(line.prompt, (select min(late.priority) from unnest(line.priorities) as late (priority))) as head
                from line
            ) as line
            union all
            select following.priority, following.heads
            from level
            cross join lateral (
                select min(line.head) as priority, array_agg(line.head order by line.number) as heads
                from (
                    select
                        line.number,
                        case
                            when level.heads[line.number] > level.priority then level.heads[line.number]
                            when level.heads[line.number] = level.priority then least(
                                (
                                    select (case when job.run_at <= job.enqueued_at then job.priority else -32769 end)
                                    from pushq.jobs_unfinished as job
                                    where job.status = 'queued' and job.apart is null and job.priority <> 0
                                    and job.queue = line.queue collate "C"
                                    and sign(job.priority) = lock_by_priority.side
                                    and job.task = line.task collate "C"
                                    and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) > level.priority
                                    and job.run_at >= lock_by_priority.since
                                    and job.run_at <= lock_by_priority.due_by
                                    order by (case when job.run_at <= job.enqueued_at then job.priority else -32769 end)
                                    limit 1
                                ),
                                (
                                    select min(late.priority)
                                    from unnest(line.priorities) as late (priority)
                                    where late.priority > level.priority
                                ))
                        end as head
                    from line
                    offset 0  -- computed once
                ) as line
            ) as following
            where level.priority is not null
        )
        select locked.id
        from level
        cross join lateral (
            select line.place
            from line
            where level.heads[line.number] = level.priority
            group by line.place
            order by line.place
        ) as of_queue
        cross join lateral (
            select line.queue, line.task, line.priorities, line.ids, shelf.is_late
            from line
            cross join (values (false), (true)) as shelf (is_late)
            cross join lateral (
                select prompt.run_at, prompt.id
                from (
                    select job.run_at, job.id
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart is null and job.priority <> 0
                    and job.queue = line.queue collate "C" and sign(job.priority) = lock_by_priority.side
                    and job.task = line.task collate "C"
                    and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) = level.priority
                    and job.run_at >= lock_by_priority.since and job.run_at <= lock_by_priority.due_by
                    order by job.run_at, job.id
                    limit 1
                ) as prompt
                where not shelf.is_late
                union all
                select line.instants[late.number], line.ids[late.number]
                from array_position(line.priorities, level.priority::smallint) as late (number)
                where shelf.is_late and late.number is not null
            ) as first
            where line.place = of_queue.place and level.heads[line.number] = level.priority
            order by first.run_at, first.id
        ) as line
        cross join lateral (
            select prompt.id
            from (
                select job.id
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority <> 0
                and job.queue = line.queue collate "C" and sign(job.priority) = lock_by_priority.side
                and job.task = line.task collate "C"
                and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) = level.priority
                and job.run_at >= lock_by_priority.since and job.run_at <= lock_by_priority.due_by
                order by job.run_at, job.id
                limit lock_by_priority.most
                for no key update skip locked
            ) as prompt
            where not line.is_late
            union all
            select late.id
            from (
                select job.id
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null
                and job.id = any(array(
                    select late.id
                    from unnest(line.priorities, line.ids) as late (priority, id)
                    where late.priority = level.priority))
                order by job.run_at, job.id
                limit lock_by_priority.most
                for no key update skip locked
            ) as late
            where line.is_late
        ) as locked
        limit lock_by_priority.most);
end
$$;

-- When the next job of the queues and the tasks is due, among jobs due from `since` on. Null: no such job is queued.
create function pushq.next_due(queues text[], tasks text[], since timestamptz) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    has_priorities boolean := exists (
        select
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart is null and job.priority <> 0
        and job.queue collate "C" = any(next_due.queues) and job.run_at >= next_due.since);
    open_queues text[] := array(select queue.name from pushq.open_queues(next_due.queues) as queue);
    first_due timestamptz := (
        select min(line.first_due)
        from unnest(open_queues) as open_queue (name)
        cross join lateral pushq.ordinary_lines(open_queue.name, next_due.tasks, next_due.since) as line);
begin
    if has_priorities then
        first_due := least(first_due, (
            select min(due.run_at)
            from (values (-1), (1)) as side (sign)
            cross join lateral pushq.lines_by_priority(side.sign, open_queues, next_due.tasks, next_due.since) as line
            cross join lateral (
                (
                    select job.run_at
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart is null and job.priority <> 0
                    and job.queue = line.its_queue collate "C" and sign(job.priority) = side.sign
                    and job.task = line.its_task collate "C"
                    and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) = -32769
                    and job.run_at >= next_due.since
                    order by job.run_at, job.id
                    limit 1
                )
                union all
                -- Jobs that were due when inserted. Each is due now, unless the clock was set back.
                (
                    select job.run_at
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart is null and job.priority <> 0
                    and job.queue = line.its_queue collate "C" and sign(job.priority) = side.sign
                    and job.task = line.its_task collate "C"
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
