-- Guests: workers that speak SQL, in any language.
--
-- A guest holds jobs under a row of pushq.supervisors of its own, with a lease. When the lease runs out, a sweeper declares the
-- guest dead, as any supervisor, and its jobs run again, each charged a crash. A guest has a row only while it holds jobs. A
-- detached job, whose handler has left the work to somebody outside, is held by a guest of its own.
--
-- A guest's row has pid 0, as no supervisor's has. A sweeper that finds the lease over warns first: pid becomes -1, and the lease
-- begins anew. So a guest whose database was away for long has time to come back, and no sweeper need live long enough to watch.
-- A guest's row is locked before the rows of the guest's jobs, everywhere.

insert into pushq.migrations (version, name) values (9, '0009_guests');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 9;

-- Puts jobs back into their queues, each only if still held under its token. kinds: retried, which counts a failure; snoozed;
-- released, which stays due. delays: in seconds. Returns the places in ids, from 1, of the accepted outcomes, or null for all.
-- Rows are locked in the order of ids, as by pushq.end_jobs().
create function pushq.give_back(
    ids uuid[], tokens uuid[], kinds text[], delays float8[], errors text[], tracebacks text[])
returns int[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    places int[];
begin
    with outcome as (
        select given.id, given.token, given.kind, given.delay, given.error, given.traceback, given.place::int
        from unnest(
            give_back.ids, give_back.tokens, give_back.kinds, give_back.delays, give_back.errors, give_back.tracebacks
        ) with ordinality as given (id, token, kind, delay, error, traceback, place)
        order by given.id
    ),
    going_on as (
        update pushq.jobs_unfinished as job
        set status = 'queued',
            token = null,
            run_at = case when outcome.kind = 'released' then job.run_at
                else clock_timestamp() + outcome.delay * interval '1 second' end,
            failures = job.failures + (outcome.kind = 'retried')::int,
            error = coalesce(outcome.error, job.error),
            traceback = case when outcome.error is null then job.traceback else outcome.traceback end
        from outcome
        where job.id = outcome.id and job.token = outcome.token
        returning outcome.place, job.queue, job.task, outcome.kind
    ),
    tallied as (
        select pushq.tally_back('retried', array_agg(going_on.queue), array_agg(going_on.task))
        from going_on
        where going_on.kind in ('retried', 'snoozed')
    ),
    rung as (
        select pushq.ring_if_idle(touched.queue)
        from (select distinct going_on.queue from going_on) as touched
    )
    select case when count(*) < cardinality(give_back.ids) then coalesce(array_agg(going_on.place), '{}') end
    into places
    from going_on
    cross join (select count(*) from tallied) as tallying
    cross join (select count(*) from rung) as ringing;
    return places;
end
$$;

-- Raises invalid_parameter_value unless the lease is over 0 and at most a year.
create function pushq.check_lease(lease interval) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not coalesce(check_lease.lease > interval '0' and check_lease.lease <= interval '1 year', false) then
        raise invalid_parameter_value using message = format(
            'a lease is over 0 and at most a year, for example ''5 minutes'', not %s', coalesce(check_lease.lease::text, 'null'));
    end if;
end
$$;

-- Makes or renews the row of a guest, and locks the row. Returns the guest's name: 'guest:' and the worker. A lease is never
-- shortened, since the guest may hold other jobs. The clock is read late, because the statement may have waited for a lock.
create function pushq.renew_guest(worker text, lease interval) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    guest text := 'guest:' || renew_guest.worker;
begin
    perform pushq.check_lease(renew_guest.lease);
    if not coalesce(length(renew_guest.worker) between 1 and 190, false) then
        raise invalid_parameter_value using message = format(
            'a worker has a name of 1 to 190 characters, not %L', renew_guest.worker);
    end if;
    insert into pushq.supervisors as host (name, host, pid, lease, lease_until)
    values (guest, 'guest', 0, renew_guest.lease, clock_timestamp() + renew_guest.lease)
    on conflict (name) do update
    set pid = 0,
        heartbeat = host.heartbeat + 1,
        lease = greatest(host.lease, excluded.lease),
        lease_until = greatest(host.lease_until, clock_timestamp() + excluded.lease)
    where host.pid <= 0;
    if not found then
        raise unique_violation using message = format('a supervisor has the name %L; give the worker another', guest);
    end if;
    return guest;
end
$$;

-- Notes what a guest has taken, for lists: its tasks and queues, as a supervisor's. Names come from producers, so a hundred do.
create function pushq.note_of_guest(guest text, task text, queue text) returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    update pushq.supervisors as host
    set tasks = array(select distinct unnest(host.tasks || note_of_guest.task) order by 1),
        queues = array(select distinct unnest(host.queues || note_of_guest.queue) order by 1)
    where host.name = note_of_guest.guest
    and (note_of_guest.task <> all(host.tasks) or note_of_guest.queue <> all(host.queues))
    and cardinality(host.tasks) + cardinality(host.queues) < 100;
end;

-- Deletes the row of a guest that holds no job.
create function pushq.dismiss_guest(guest text) returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    delete from pushq.supervisors as host
    where host.name = dismiss_guest.guest and host.pid <= 0
    and not exists (
        select from pushq.jobs_unfinished as job where job.status = 'running' and job.supervisor = dismiss_guest.guest);
end;

-- Takes a queued job for a worker, due or not. Returns the token under which the worker holds the job, or null if the job is not
-- queued. The lease is the worker's: take, take_next and extend renew the lease, for all jobs of the worker.
create function pushq.take(id uuid, worker text, lease interval default '5 minutes') returns uuid
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    guest text := pushq.renew_guest(take.worker, take.lease);
    taken record;
begin
    select job.* into taken
    from pushq.claim_locked(
        array(select id from pushq.jobs_unfinished as job where job.id = take.id and job.status = 'queued' for no key update),
        guest, 0, gen_random_uuid()) as job;
    if found then
        perform pushq.note_of_guest(guest, taken.task, taken.queue);
    else
        perform pushq.dismiss_guest(guest);
    end if;
    return taken.token;
end
$$;

-- The tasks of queued jobs in a queue, sorted by their bytes: one look into an index for each.
create function pushq.tasks_in(queue text) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        with recursive ordinary as (
            (
                select job.task collate "C" as task
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority = 0
                and job.queue = tasks_in.queue collate "C"
                order by job.task collate "C"
                limit 1
            )
            union all
            select following.task
            from ordinary
            cross join lateral (
                select job.task collate "C" as task
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority = 0
                and job.queue = tasks_in.queue collate "C" and job.task > ordinary.task collate "C"
                order by job.task collate "C"
                limit 1
            ) as following
        ),
        by_priority as (
            select first.side, first.task
            from (values (-1), (1)) as sides (side)
            cross join lateral (
                select sides.side, job.task collate "C" as task
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority <> 0
                and job.queue = tasks_in.queue collate "C" and sign(job.priority) = sides.side
                order by job.task collate "C"
                limit 1
            ) as first
            union all
            select by_priority.side, following.task
            from by_priority
            cross join lateral (
                select job.task collate "C" as task
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority <> 0
                and job.queue = tasks_in.queue collate "C" and sign(job.priority) = by_priority.side
                and job.task > by_priority.task collate "C"
                order by job.task collate "C"
                limit 1
            ) as following
        )
        select task from ordinary
        union
        select task from by_priority
        order by task);
end
$$;

-- Locks the most urgent due suspect of a queue, a job that has killed two processes, and returns its id in an array. Only for a
-- guest that holds nothing else, since the third crash is the last, and would be charged to every job of the guest.
create function pushq.lock_suspect(queue text, tasks text[], guest text) returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from pushq.jobs_unfinished as job where job.status = 'running' and job.supervisor = lock_suspect.guest) then
        return '{}';
    end if;
    return array(
        select job.id
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart = 'solo'
        and job.queue in (select open.name from pushq.open_queues(array[lock_suspect.queue]) as open)
        and job.run_at <= clock_timestamp() and (lock_suspect.tasks is null or job.task = any(lock_suspect.tasks))
        order by job.priority, job.run_at, job.id
        limit 1
        for no key update of job skip locked);
end
$$;

-- Takes the most urgent due job of a queue for a worker, of the given tasks (null: of any). Returns no row if none is due, the
-- queue is paused, or the worker holds a suspect. timeout and max_attempts are the producer's wishes, which a guest may heed. A
-- job whose payload cannot be read fails, and the next is taken.
--
-- The settings are those of a pool's session: see _PLANS in pushq/database/session.py.
create function pushq.take_next(queue text, worker text, lease interval default '5 minutes', tasks text[] default null)
returns table (
    id uuid, task text, payload jsonb, attempt int, failures int, crashes int, max_attempts int, timeout interval,
    tenant_id text, correlation_id text, token uuid)
language plpgsql
set search_path = pg_catalog, pg_temp
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    guest text := pushq.renew_guest(take_next.worker, take_next.lease);
    wanted text[] := array(
        select distinct name collate "C" from unnest(take_next.tasks) as name where name is not null order by 1);
    locked uuid[];
    taken record;
begin
    if take_next.tasks is null then
        wanted := pushq.tasks_in(take_next.queue);
    end if;
    for _ in 1..100 loop
        exit when exists (
            select from pushq.jobs_unfinished as job
            where job.status = 'running' and job.supervisor = guest and job.crashes >= pushq.most_crashes() - 1);
        locked := pushq.lock_suspect(take_next.queue, case when take_next.tasks is not null then wanted end, guest);
        if cardinality(locked) = 0 then
            locked := pushq.lock_claimable(array[take_next.queue], wanted, guest, 1, '-infinity', clock_timestamp());
        end if;
        select job.id, job.task, job.token into taken
        from pushq.claim_locked(locked, guest, 0, gen_random_uuid()) as job;
        exit when not found;
        if exists (select from pushq.jobs_unfinished as job where job.id = taken.id and job.payload_is_too_long) then
            perform pushq.end_jobs(
                array[taken.id], array[taken.token], null, null, '{failed}',
                '{PayloadError: its numbers have too many digits; send them as strings}', null, null);
            continue;
        end if;
        perform pushq.note_of_guest(guest, taken.task, take_next.queue);
        return query
        select
            job.id, job.task, job.payload, job.attempt, job.failures, job.crashes, job.max_attempts, job.timeout,
            job.tenant_id, job.correlation_id, job.token
        from pushq.jobs_unfinished as job
        where job.id = taken.id;
        return;
    end loop;
    perform pushq.dismiss_guest(guest);
end
$$;

-- Writes the outcome of a job that is held under the token, by a guest or a pool. Returns whether the outcome counted: false if
-- the job is no longer held under the token. kind: succeeded, failed, cancelled end the job; retried (a failure) and snoozed (no
-- failure) queue the job again after the delay, released at once. Whether to try again after a failure is the guest's choice:
-- failed is final, and max_attempts is not looked at. error: at most 10,000 characters are kept.
create function pushq.finish(
    id uuid, token uuid, kind text, result jsonb default null, error text default null, delay interval default '0')
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    error text := left(finish.error, 10000);
    guest text;
    has_counted boolean;
begin
    if not coalesce(finish.kind in ('succeeded', 'failed', 'cancelled', 'retried', 'snoozed', 'released'), false) then
        raise invalid_parameter_value using message = format(
            'pushq.finish: %L is no outcome; give succeeded, failed, cancelled, retried, snoozed or released', finish.kind);
    elsif not coalesce(finish.delay between interval '0' and interval '1 year', false) then
        raise invalid_parameter_value using message = format(
            'pushq.finish: a delay is between 0 and a year, not %s', coalesce(finish.delay::text, 'null'));
    end if;
    if finish.token is null then
        return false;  -- pushq.end_jobs() would take this for a person, who may end any job
    end if;
    select host.name into guest
    from pushq.jobs_unfinished as job
    join pushq.supervisors as host on host.name = job.supervisor
    where job.id = finish.id and job.token = finish.token and host.pid <= 0
    for update of host;
    if finish.kind in ('succeeded', 'failed', 'cancelled') then
        has_counted := pushq.end_jobs(
            array[finish.id], array[finish.token], null, null, array[finish.kind],
            array[case when finish.kind = 'failed' then coalesce(error, 'failed') else error end], null,
            array[finish.result::text]) is null;
    else
        has_counted := pushq.give_back(
            array[finish.id], array[finish.token], array[finish.kind], array[extract(epoch from finish.delay)],
            array[error], null) is null;
    end if;
    perform pushq.dismiss_guest(guest);
    return has_counted;
end
$$;

-- Renews the lease of the guest that holds the job under the token. Returns whether the job is still held under the token: by the
-- guest, or by a pool that has not detached the job yet, whose lease is its own.
create function pushq.extend(id uuid, token uuid, lease interval default '5 minutes') returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pushq.check_lease(extend.lease);
    update pushq.supervisors as host
    set pid = 0,
        heartbeat = host.heartbeat + 1,
        lease = greatest(host.lease, extend.lease),
        lease_until = greatest(host.lease_until, clock_timestamp() + extend.lease)
    from pushq.jobs_unfinished as job
    where job.id = extend.id and job.token = extend.token and host.name = job.supervisor and host.pid <= 0;
    return found or exists (
        select
        from pushq.jobs_unfinished as job
        join pushq.supervisors as host on host.name = job.supervisor
        where job.id = extend.id and job.token = extend.token);
end
$$;

-- Detaches running jobs from their pool, each only if still held under its token: each gets a guest of its own, named after the
-- job, with a lease in seconds. The token stays. Returns the places in ids, from 1, of the jobs that were detached, or null for
-- all.
create function pushq.detach(ids uuid[], tokens uuid[], leases float8[]) returns int[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    guests text[];
    accepted int[];
begin
    -- Before the jobs are locked. A guest that is there already, after a lost reply, is left alone.
    with hosted as (
        insert into pushq.supervisors as host (name, host, pid, lease, lease_until, tasks, queues)
        select
            'guest:' || job.id, 'guest', 0, wish.lease * interval '1 second',
            clock_timestamp() + wish.lease * interval '1 second', array[job.task], array[job.queue]
        from unnest(detach.ids, detach.tokens, detach.leases) as wish (id, token, lease)
        join pushq.jobs_unfinished as job on job.id = wish.id and job.token = wish.token
        order by job.id
        on conflict on constraint supervisors_pkey do nothing
        returning host.name
    )
    select array_agg(hosted.name) into guests from hosted;

    with wish as (
        select given.id, given.token, given.place::int
        from unnest(detach.ids, detach.tokens) with ordinality as given (id, token, place)
        order by given.id
    ),
    detached as (
        update pushq.jobs_unfinished as job
        set supervisor = 'guest:' || job.id, pool = 0
        from wish
        where job.id = wish.id and job.token = wish.token
        returning wish.place
    )
    select coalesce(array_agg(detached.place), '{}') into accepted from detached;

    if cardinality(accepted) = cardinality(detach.ids) then
        return null;
    end if;
    perform pushq.dismiss_guest(guest) from unnest(guests) as guest;
    return accepted;
end
$$;
