-- What people do to jobs and queues by hand. Each function returns what it did, in a word. Whatever stands in the caller's
-- search_path, it calls nothing of it.

insert into pushq.migrations (version, name) values (6, '0006_operate');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 6;

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

        if pushq.bring_back(retry.id) then
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
