-- Functions for people, to change jobs and queues by hand. Each function returns in words what was done. No function calls
-- anything from the caller's search_path.

insert into pushq.migrations (version, name) values (6, '0006_operate');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 6;

-- Ends an unfinished job as cancelled. Returns 'cancelled', 'already succeeded', 'already failed', 'already cancelled' or
-- 'unknown'. The handler of a running job runs on, and its outcome is refused, because the row has left.
create function pushq.cancel(id uuid) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    was text;
begin
    for _ in 1..100 loop
        if pushq.end_jobs(array[cancel.id], array[null::uuid], null, null, '{cancelled}', null, null, null) is null then
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
        -- The job was retried between the two statements: it can be cancelled now.
    end loop;
    raise insufficient_privilege using message = format(
        'job %s can be seen and not changed by %s: a row-level policy says so', cancel.id, current_user);
end
$$;

-- Queues a job again, due at once, with failures and crashes at 0. Makes a queued job due. Returns 'queued', 'running' or
-- 'unknown'; or 'unique_key is taken' or 'id is taken', if an unfinished job has the same.
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

        if pushq.bring_back(retry.id) then
            return 'queued';
        elsif not exists (select from pushq.jobs as job where job.id = retry.id) then
            return 'unknown';
        end if;
        -- Another session retried the job between the two statements: by now it is queued, running, or finished again.
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
        raise;  -- from an index that a user has made
end
$$;

-- Stops pools from claiming a queue's jobs. Running jobs run on. Returns 'paused' or 'already paused'. '*' stands for all
-- queues, future queues included.
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

-- Lets pools claim a queue's jobs again, and wakes the pools. Returns 'resumed' or 'not paused'. '*' ends only the pause of
-- '*': a queue that was paused by name stays paused.
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
    perform pushq.ring_bell(case resume.queue when '*' then '' else resume.queue end);  -- '' rings for all pools
    return 'resumed';
end
$$;

-- Wakes the pools of a queue, idle or not. Returns 'rung', or 'not rung' if pushq.notify is off or the cluster's notification
-- queue is half full. Call after COMMIT PREPARED of a transaction that inserted with pushq.notify = 'off'.
create function pushq.ring(queue text) returns text
language sql volatile
return case when pushq.ring_bell(queue) then 'rung' else 'not rung' end;
