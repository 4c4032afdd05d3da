-- Changes by hand that say whether they happened: guarded by the status that the caller expects.
--
-- The functions act with the owner's rights, so that tenants may change their own jobs: pushq.lock_job() asks pushq.may_touch().

insert into pushq.migrations (version, name) values (8, '0008_changes');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 8;

-- The possible changes of a job's status, and what makes each change: claims, outcomes, the requeue of a dead process's jobs, or
-- the functions of this file. No other change happens, except by an UPDATE by hand.
create function pushq.transitions() returns table (was text, becomes text, made_by text[])
language sql immutable parallel safe
begin atomic
    values
        ('queued', 'running', '{claim}'::text[]),
        ('queued', 'cancelled', '{cancel,change}'),
        ('running', 'queued', '{outcome,requeue,change}'),
        ('running', 'succeeded', '{outcome}'),
        ('running', 'failed', '{outcome,requeue}'),
        ('running', 'cancelled', '{outcome,cancel,change}'),
        ('succeeded', 'queued', '{retry,change}'),
        ('failed', 'queued', '{retry,change}'),
        ('cancelled', 'queued', '{retry,change}');
end;

-- Raises invalid_parameter_value unless the status is one of the five, or null.
create function pushq.check_status(status text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if check_status.status not in ('queued', 'running', 'succeeded', 'failed', 'cancelled') then
        raise invalid_parameter_value using message = format(
            '%L is no status of a job; give queued, running, succeeded, failed or cancelled', check_status.status);
    end if;
end
$$;

-- The job with the id: if unfinished, its row is locked now; else the one that finished last. Null in all columns: there is none
-- that the caller may touch.
create function pushq.lock_job(
    id uuid, out status text, out queue text, out token uuid, out finished_on date, out finished_at timestamptz)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    for _ in 1..100 loop
        select job.status, job.queue, job.token, job.finished_on, job.finished_at
        into lock_job.status, lock_job.queue, lock_job.token, lock_job.finished_on, lock_job.finished_at
        from pushq.jobs_unfinished as job
        where job.id = lock_job.id and pushq.may_touch(job.tenant_id)
        for update;
        exit when found;
        -- One look at all partitions: infinity comes first.
        select job.status, job.queue, job.token, job.finished_on, job.finished_at
        into lock_job.status, lock_job.queue, lock_job.token, lock_job.finished_on, lock_job.finished_at
        from pushq.jobs as job
        where job.id = lock_job.id and pushq.may_touch(job.tenant_id)
        order by job.finished_on desc, job.finished_at desc
        limit 1;
        exit when not found or lock_job.finished_on < 'infinity';
        -- The job was retried between the two statements.
    end loop;
end
$$;

-- Why an unfinished job with this status cannot be changed, in a word or two, or null. expected: the status that the caller
-- expects, or null.
create function pushq.why_not(status text, expected text) returns text
language sql immutable parallel safe
return case
    when status is null then 'unknown'
    when status not in ('queued', 'running') then 'already ' || status
    when status <> expected then 'is ' || status
end;

-- For a change that a user's trigger or policy has kept from happening, although the row is locked.
create function pushq.refuse_change(id uuid) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise insufficient_privilege using message = format(
        'job %s can be seen and not changed: a trigger or a row-level policy says so', refuse_change.id);
end
$$;

-- Ends an unfinished job as cancelled, if the job has the expected status (null: queued or running). Returns 'cancelled'; else
-- 'is …' with the status that was not expected, 'already succeeded', 'already failed', 'already cancelled' or 'unknown'. The
-- pool of a running job stops the handler, and its outcome is refused, because the row has left.
-- Calls with one argument find the new function.
-- squawk-ignore ban-drop-function
drop function pushq.cancel(uuid);
create function pushq.cancel(id uuid, expected text default null) returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    was record;
    why_not text;
begin
    perform pushq.check_status(cancel.expected);
    was := pushq.lock_job(cancel.id);
    why_not := pushq.why_not(was.status, cancel.expected);
    if why_not is not null then
        return why_not;
    elsif pushq.end_jobs(array[cancel.id], array[null::uuid], null, null, '{cancelled}', null, null, null) is not null then
        perform pushq.refuse_change(cancel.id);
    end if;
    perform pushq.recall(cancel.id, was.token);
    return 'cancelled';
end
$$;

do $do$
declare
    -- As in 0005_ends.
    asked text := 'id, task, payload, queue, priority, max_attempts, timeout, unique_key, tenant_id, correlation_id, submitted_by';
    past text := 'attempt, enqueued_at, supervisor';
    -- Brings a finished job back from its day: due at once, with failures and crashes at 0. The day and the instant tell apart
    -- jobs that had the id one after another. Returns false if another session was first.
    function text := $function$
create function pushq.bring_back(id uuid, the_day date, finished_at timestamptz) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    with removed as (
        delete from pushq.jobs as job
        where job.id = bring_back.id and job.finished_on = bring_back.the_day
        and job.finished_at = bring_back.finished_at and pushq.may_touch(job.tenant_id)
        returning {job.asked}, {job.past}, job.started_at, job.error, job.traceback
    )
    insert into pushq.jobs ({asked}, {past}, run_at, started_at, error, traceback)
    select {removed.asked}, {removed.past}, clock_timestamp(), removed.started_at, removed.error, removed.traceback
    from removed
    limit 1;
    return found;
end
$$
$function$;
begin
    drop function pushq.bring_back(uuid);
    execute replace(replace(replace(replace(replace(replace(function,
        '{job.asked}', regexp_replace(asked, '(\w+)', 'job.\1', 'g')), '{job.past}', regexp_replace(past, '(\w+)', 'job.\1', 'g')),
        '{removed.asked}', regexp_replace(asked, '(\w+)', 'removed.\1', 'g')),
        '{removed.past}', regexp_replace(past, '(\w+)', 'removed.\1', 'g')),
        '{asked}', asked), '{past}', past);
end
$do$;

-- Queues a job again, due at once, with failures and crashes at 0, if the job has the expected status (null: any but running).
-- Makes a queued job due. Of several finished jobs with the id, takes the job that finished last. Returns 'queued'; else 'is …'
-- with the status that was not expected, 'running', 'unknown', or 'unique_key is taken' or 'id is taken', if an unfinished job has
-- the same.
-- Calls with one argument find the new function.
-- squawk-ignore ban-drop-function
drop function pushq.retry(uuid);
create function pushq.retry(id uuid, expected text default null) returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    was record;
    rule text;
begin
    perform pushq.check_status(retry.expected);
    for _ in 1..100 loop
        was := pushq.lock_job(retry.id);
        if was.status is null then
            return 'unknown';
        elsif was.status <> retry.expected then
            return 'is ' || was.status;
        elsif was.status = 'running' then
            return 'running';
        elsif was.status = 'queued' then
            update pushq.jobs_unfinished as job
            set run_at = least(run_at, clock_timestamp()),
                failures = 0,
                crashes = 0
            where job.id = retry.id;
            perform pushq.ring_bell(was.queue);
            return 'queued';
        elsif pushq.bring_back(retry.id, was.finished_on, was.finished_at) then
            return 'queued';
        end if;
        -- Another session retried the job between the two statements: by now it is queued, running, or finished again.
    end loop;
    perform pushq.refuse_change(retry.id);
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

-- Changes the priority of a queued job. Returns 'reprioritized'; else 'is running', 'already succeeded', 'already failed',
-- 'already cancelled' or 'unknown'.
create function pushq.reprioritize(id uuid, priority int) returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was record;
    why_not text;
begin
    if reprioritize.priority is null or reprioritize.priority not between -32768 and 32767 then
        raise invalid_parameter_value using message = format(
            'pushq.reprioritize: a priority is a number from -32768 to 32767, not %s',
            coalesce(reprioritize.priority::text, 'null'));
    end if;
    was := pushq.lock_job(reprioritize.id);
    why_not := pushq.why_not(was.status, 'queued');
    if why_not is null then
        update pushq.jobs_unfinished as job set priority = reprioritize.priority where job.id = reprioritize.id;
    end if;
    return coalesce(why_not, 'reprioritized');
end
$$;

-- Changes the earliest start of a queued job. Returns 'rescheduled'; else as pushq.reprioritize().
create function pushq.reschedule(id uuid, run_at timestamptz) returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was record;
    why_not text;
begin
    if reschedule.run_at is null then
        raise invalid_parameter_value using message = 'pushq.reschedule: give the earliest start, an instant, not null';
    end if;
    was := pushq.lock_job(reschedule.id);
    why_not := pushq.why_not(was.status, 'queued');
    if why_not is null then
        update pushq.jobs_unfinished as job set run_at = reschedule.run_at where job.id = reschedule.id;
        perform pushq.ring_if_idle(was.queue);
    end if;
    return coalesce(why_not, 'rescheduled');
end
$$;

-- Changes a job's status, if the job has the expected one: a compare and set. Only moves that pushq.transitions() says are made by
-- change. Returns the new status; else 'is …' with the status that was not expected, 'already …', 'unknown', 'unique_key is taken'
-- or 'id is taken'. A running job that becomes queued is taken from its pool without a failure: the pool stops the handler,
-- whose outcome is refused.
create function pushq.change(id uuid, expected text, becomes text) returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was record;
    why_not text;
begin
    perform pushq.check_status(change.expected), pushq.check_status(change.becomes);
    if change.expected is null or change.becomes is null or not exists (
        select from pushq.transitions() as move
        where move.was = change.expected and move.becomes = change.becomes and 'change' = any(move.made_by)) then
        raise invalid_parameter_value using message = format(
            'pushq.change: nobody makes a job that is %s %s by hand; these changes are made: %s',
            coalesce(change.expected, 'null'), coalesce(change.becomes, 'null'),
            (
                select string_agg(format('%s to %s', move.was, move.becomes), ', ')
                from pushq.transitions() as move where 'change' = any(move.made_by)));
    end if;
    if change.becomes = 'cancelled' then
        return pushq.cancel(change.id, change.expected);
    elsif change.expected <> 'running' then
        return pushq.retry(change.id, change.expected);
    end if;
    was := pushq.lock_job(change.id);
    why_not := pushq.why_not(was.status, 'running');
    if why_not is null then
        update pushq.jobs_unfinished as job set status = 'queued', token = null where job.id = change.id;
        perform pushq.recall(change.id, was.token), pushq.ring_if_idle(was.queue);
    end if;
    return coalesce(why_not, 'queued');
end
$$;

-- Whoever could change rows by hand may call the functions, as before.
revoke execute on function
    pushq.cancel(uuid, text), pushq.retry(uuid, text), pushq.reprioritize(uuid, int), pushq.reschedule(uuid, timestamptz),
    pushq.change(uuid, text, text)
    from public;
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
            'grant execute on function pushq.cancel(uuid, text), pushq.retry(uuid, text), pushq.reprioritize(uuid, int), '
            'pushq.reschedule(uuid, timestamptz), pushq.change(uuid, text, text), pushq.may_touch(text) to %s',
            its_role);
    end loop;
end
$$;

create or replace function pushq.grant_to_tenants() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if has_schema_privilege('pushq', 'usage with grant option') then
        grant usage on schema pushq to pushq_tenant;
    end if;
    grant
        select (
            id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
            submitted_by, status, attempt, failures, crashes, enqueued_at, started_at, finished_at, error, traceback, result,
            finished_on),
        insert (
            id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
            submitted_by)
        on pushq.jobs to pushq_tenant;
    grant execute on function
        pushq.tenant(), pushq.tenant_of(name), pushq.uuidv7(), pushq.broken_rule, pushq.refuse_job(text),
        pushq.may_have_long_numbers(jsonb), pushq.is_too_long(jsonb), pushq.gate_clock(), pushq.ring_bell(text),
        pushq.schema_version(), pushq.cancel(uuid, text), pushq.retry(uuid, text), pushq.reprioritize(uuid, int),
        pushq.reschedule(uuid, timestamptz)
        to pushq_tenant;
    grant select on pushq.migrations to pushq_tenant;
end
$$;
do $$
begin
    if pushq.is_separated() and to_regrole('pushq_tenant') is not null then
        perform pushq.grant_to_tenants();
    end if;
end
$$;
