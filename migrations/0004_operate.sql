-- What people do to jobs and queues by hand. Each function returns what it did, in a word. Whatever stands in the caller's
-- search_path, it calls nothing of it.

insert into pushq.migrations (version, name) values (4, '0004_operate');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 4;

-- Ends an unfinished job as cancelled: 'cancelled'; else 'already succeeded', 'already failed', 'already cancelled' or
-- 'unknown'. The handler of a running job runs on; its outcome is fenced off, since its row is no longer there to take it.
create function pushq.cancel(id uuid) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    was text;
begin
    for _ in 1..100 loop
        with removed as (
            delete from pushq.jobs_unfinished as job
            where job.id = cancel.id
            returning job.*
        ),
        cancelled as (
            insert into pushq.jobs (
                id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id,
                correlation_id, submitted_by, status, attempt, failures, crashes, enqueued_at, started_at, finished_at,
                supervisor, pool, token, error, traceback, result, finished_on)
            select
                id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id,
                correlation_id, submitted_by, 'cancelled', attempt, failures, crashes, enqueued_at, started_at,
                greatest(clock_timestamp(), started_at), supervisor, pool, null, error, traceback, null,
                pushq.current_day()
            from removed
        ),
        tallied as (
            insert into pushq.tally_log (queue, task, outcome, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds)
            select coalesce(label.queue, '_other'), coalesce(label.task, '_other'), 'cancelled', -1, -1, 1, 0, 0
            from removed
            left join pushq.labels as label on label.queue = removed.queue and label.task = removed.task
        )
        select status into was from removed;
        if found then
            return 'cancelled';
        end if;

        select status into was
        from pushq.jobs as job
        where job.id = cancel.id
        order by finished_on desc, finished_at desc
        limit 1;
        if not found or was not in ('queued', 'running') then
            return coalesce('already ' || was, 'unknown');
        end if;
        -- Somebody has retried it between the two looks: it can be cancelled again.
    end loop;
    raise insufficient_privilege using message = format(
        'job %s can be seen and not changed by %s: a row-level policy says so', cancel.id, current_user);
end
$$;

-- Makes a job run again, now, with a clean count of failures and crashes: 'queued'; else 'running', 'unknown', or
-- 'unique_key is taken' or 'id is taken' when an unfinished job has it. A queued job that waits for its time is made due.
create function pushq.retry(id uuid) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    was text;
    its_queue text;
    rule text;
begin
    for _ in 1..100 loop
        select status, queue into was, its_queue
        from pushq.jobs_unfinished as job
        where job.id = retry.id
        for update;
        if was = 'running' then
            return 'running';
        elsif was = 'queued' then
            update pushq.jobs_unfinished as job
            set run_at = least(run_at, clock_timestamp()),
                failures = 0,
                crashes = 0
            where job.id = retry.id;
            perform pushq.ring_bell(its_queue);
            return 'queued';
        end if;

        with removed as (
            delete from pushq.jobs as job
            where job.id = retry.id
            and (job.finished_on, job.finished_at) = (
                select newest.finished_on, newest.finished_at
                from pushq.jobs as newest
                where newest.id = retry.id and newest.finished_on < 'infinity'
                order by newest.finished_at desc
                limit 1)
            returning job.*
        )
        insert into pushq.jobs (
            id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
            submitted_by, attempt, enqueued_at, started_at, supervisor, error, traceback)
        select
            id, task, payload, queue, priority, clock_timestamp(), max_attempts, timeout, unique_key, tenant_id,
            correlation_id, submitted_by, attempt, enqueued_at, started_at, supervisor, error, traceback
        from removed;
        if found then
            return 'queued';
        elsif not exists (select from pushq.jobs as job where job.id = retry.id) then
            return 'unknown';
        end if;
        -- Somebody else has retried it between the two looks: it is queued, or running, or has finished again.
    end loop;
    raise insufficient_privilege using message = format(
        'job %s can be seen and not changed by %s: a row-level policy says so', retry.id, current_user);
exception
    when unique_violation then
        get stacked diagnostics rule = constraint_name;
        if rule = 'jobs_unfinished_unique_key' then
            return 'unique_key is taken';
        elsif rule = 'jobs_unfinished_id_is_unique' then
            return 'id is taken';
        end if;
        raise;  -- of an index that somebody has made
end
$$;

-- Stops pools from claiming a queue's jobs; running ones run on. 'paused', or 'already paused'. '*' stands for all queues, also
-- for those to come.
create function pushq.pause(queue text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into pushq.queues as known (name, paused_at) values (pause.queue, now())
    on conflict (name) do update set paused_at = now() where known.paused_at is null;
    return case when found then 'paused' else 'already paused' end;
end
$$;

-- Lets pools claim a queue's jobs again, and wakes them: 'resumed', or 'not paused'. '*' takes back its like alone: a queue that
-- was paused by its name stays so.
create function pushq.resume(queue text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update pushq.queues as known set paused_at = null
    where known.name = resume.queue and known.paused_at is not null;
    if not found then
        return 'not paused';
    end if;
    perform pushq.ring_bell(case resume.queue when '*' then '' else resume.queue end);  -- '' is for everybody
    return 'resumed';
end
$$;

-- Wakes the pools of a queue, idle or not: 'rung', or 'not rung' when pushq.notify is off or the cluster's notification
-- queue is half full. For after COMMIT PREPARED of a transaction that inserted with pushq.notify = 'off'.
create function pushq.ring(queue text) returns text
language sql volatile
return case when pushq.ring_bell(queue) then 'rung' else 'not rung' end;
