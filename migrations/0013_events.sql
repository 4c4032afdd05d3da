-- Events: what happened to each job, who did it, and the error of each attempt that did not simply succeed.
--
-- Kept by default: failures, retries, cancels, crashes, and changes by hand. A queue with all_events keeps every transition. A pool
-- writes the events of a batch with one statement, which runs only for a batch that has events. So a job without events pays
-- nothing. An INSERT is no event: the row itself tells.
--
-- Events of one job are in the order of their ids: the job's row is locked when the id is drawn. Clocks may step back. Events lie in
-- the day on which they were written, and go with the day.

insert into pushq.migrations (version, name) values (13, '0013_events');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 13;

create sequence pushq.job_event_ids as bigint;

create table pushq.job_events (
    id bigint not null default nextval('pushq.job_event_ids'),
    job_id uuid,
    tenant_id text,
    kind text not null,
    was text,
    became text,
    attempt int,
    at timestamptz not null default clock_timestamp(),
    actor text,
    error text,
    traceback text,
    detail jsonb,
    tx bigint not null default pg_current_xact_id()::text::bigint,
    day date not null default pushq.current_day()
) partition by range (day);
create index job_events_of_job on pushq.job_events (job_id, id);
create index job_events_by_tx on pushq.job_events using brin (tx) with (pages_per_range = 16, autosummarize = on);

comment on table pushq.job_events is 'What happened to each job. Written by pushq; an application may add events of kind note.';
comment on column pushq.job_events.job_id is 'The job. Null for a change by hand of many jobs at once, whose number is in detail.';
comment on column pushq.job_events.kind is
    'claimed, succeeded, failed, cancelled, retried, snoozed, released, detached, requeued; edited, deleted; note.';
comment on column pushq.job_events.actor is 'The supervisor, or the login, role, application and pushq.actor of whoever did it.';
comment on column pushq.job_events.tx is 'The number of the writing transaction, by which events are followed without a gap.';


-- Days -----------------------------------------------------------------------------------------------------------

-- Makes the missing partitions of events for the days of jobs, so that every day that takes finished jobs takes events too.
create function pushq.make_event_days() returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    the_day date;
    its_table text;
begin
    for the_day in select day from pushq.days where retired_at is null order by day loop
        its_table := to_char(the_day, '"job_events_"YYYY_MM_DD');
        continue when to_regclass('pushq.' || its_table) is not null;
        execute format('create table pushq.%I (like pushq.job_events including defaults including storage)', its_table);
        execute format('alter table pushq.%I replica identity full', its_table);
        execute format(
            'alter table pushq.job_events attach partition pushq.%I for values from (%L) to (%L)',
            its_table, the_day, the_day + 1);
    end loop;
end
$$;

create or replace function pushq.make_event_days_too() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pushq.make_event_days();
    return null;
end
$$;

select pushq.make_event_days();

-- The attached partitions of events before the oldest day of jobs. None while pushq.days has lost its rows.
create function pushq.outlived_event_days() returns table (day date, partition text)
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select of_day.day, of_day.partition
    from (
        select to_date(partition.relname::text, '"job_events_"YYYY_MM_DD') as day, partition.relname::text as partition
        from pg_inherits
        join pg_class as partition on partition.oid = inhrelid
        where inhparent = 'pushq.job_events'::regclass
        and partition.relname ~ '^job_events_[0-9]{4}_[0-9]{2}_[0-9]{2}$'
    ) as of_day
    where of_day.day < (select min(known.day) from pushq.days as known where known.retired_at is null);
end;

-- Empties these partitions. Returns days that cannot be emptied, with the trouble. A day with open readers is left for the next
-- time.
create function pushq.retire_event_days() returns table (day date, trouble text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
#variable_conflict use_column
declare
    outlived record;
begin
    for outlived in select day, partition from pushq.outlived_event_days() order by day loop
        continue when pg_relation_size(to_regclass('pushq.' || quote_ident(outlived.partition))) = 0;
        begin
            execute format('truncate table pushq.%I', outlived.partition);
        exception
            when lock_not_available then
                null;
            when others then
                return query select outlived.day, format('%s (%s)', sqlerrm, sqlstate);
        end;
    end loop;
end
$$;
revoke execute on function pushq.make_event_days(), pushq.retire_event_days() from public;


-- Writing --------------------------------------------------------------------------------------------------------

-- Who acts: the login, the role if another, the application's name, and the setting pushq.actor, by which an application names
-- its own user.
create function pushq.actor() returns text
language sql stable
return left(
    concat_ws(
        ' ', session_user, 'as ' || nullif(pushq.caller(), session_user),
        'with ' || nullif(current_setting('application_name'), ''), 'for ' || nullif(current_setting('pushq.actor', true), '')),
    500);

-- Writes the events of jobs that changed. places: the places, from 1, of the jobs that did change, or null for all. noted: whether
-- the job has an event; an empty array: every job has. Other arrays may be empty if they hold only nulls. was: the status
-- before; null: running. kinds: as in the table; null: succeeded. delays: seconds until a job that goes on is due.
create function pushq.note_changes(
    places int[], noted boolean[], ids uuid[], tenants text[], attempts int[], was text[], kinds text[], delays float8[],
    errors text[], tracebacks text[], actor text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into pushq.job_events (
        job_id, tenant_id, kind, was, became, attempt, actor, error, traceback, detail, tx, day)
    select
        given.id, given.tenant, coalesce(given.kind, 'succeeded'), coalesce(given.was, 'running'),
        case
            when given.kind is null then 'succeeded'
            when given.kind in ('succeeded', 'failed', 'cancelled') then given.kind
            when given.kind in ('claimed', 'detached', 'cancelling') then 'running'
            else 'queued'
        end,
        given.attempt, note_changes.actor, given.error, given.traceback,
        case when given.delay > 0 then jsonb_build_object('delay', given.delay) end,
        (select pg_current_xact_id()::text::bigint), (select pushq.current_day())
    from unnest(
        note_changes.ids, note_changes.tenants, note_changes.attempts, note_changes.was, note_changes.kinds,
        note_changes.delays, note_changes.errors, note_changes.tracebacks, note_changes.noted
    ) with ordinality as given (id, tenant, attempt, was, kind, delay, error, traceback, is_noted, place)
    where (given.is_noted or cardinality(note_changes.noted) = 0)
    and (note_changes.places is null or given.place = any(note_changes.places))
    order by given.place;
end
$$;

-- Writes the events of jobs whose handlers have told a new phase, each only if still held under its token.
create function pushq.note_phases(ids uuid[], tokens uuid[], phases text[]) returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into pushq.job_events (job_id, tenant_id, kind, was, became, attempt, actor, detail)
    select
        job.id, job.tenant_id, 'phase', job.status, job.status, job.attempt, job.supervisor,
        jsonb_build_object('phase', given.phase)
    from unnest(note_phases.ids, note_phases.tokens, note_phases.phases) with ordinality as given (id, token, phase, place)
    join pushq.jobs_unfinished as job on job.id = given.id and job.token = given.token
    order by given.place;
end
$$;


-- Claims -----------------------------------------------------------------------------------------------------------

-- As pushq.claim_locked(), and says of each job whether all its transitions are kept as events: if its queue is one of
-- with_all_events. Writes the claim's own event. saved: the checkpoint of an earlier attempt, as JSON text.
create function pushq.claim_noting(
    ids uuid[], its_supervisor text, its_pool int, its_token uuid, with_all_events text[])
returns table (
    id uuid, task text, queue text, payload text, attempt int, failures int, crashes int, max_attempts int,
    timeout double precision, tenant_id text, correlation_id text, token uuid, all_events boolean, saved text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if cardinality(claim_noting.ids) = 0 then
        return;
    end if;
    return query
    update pushq.jobs_unfinished as job
    set status = 'running',
        attempt = job.attempt + (job.attempt < 2147483647)::int,
        supervisor = claim_noting.its_supervisor,
        pool = claim_noting.its_pool,
        token = claim_noting.its_token,
        started_at = clock_timestamp()
    where job.id = any(claim_noting.ids)
    returning
        job.id, job.task, job.queue, pushq.claimed_payload(job.payload, job.payload_is_too_long),
        job.attempt, job.failures, job.crashes, job.max_attempts,
        extract(epoch from job.timeout)::float8, job.tenant_id, job.correlation_id, job.token,
        job.queue = any(claim_noting.with_all_events), (job.progress -> 'checkpoint')::text;
    if cardinality(claim_noting.with_all_events) > 0 then
        perform pushq.note_changes(
            null, '{}', array_agg(job.id), array_agg(job.tenant_id), array_agg(job.attempt),
            array_fill('queued'::text, array[count(*)::int]), array_fill('claimed'::text, array[count(*)::int]), null, null, null,
            claim_noting.its_supervisor)
        from pushq.jobs_unfinished as job
        where job.id = any(claim_noting.ids) and job.token = claim_noting.its_token
        and job.queue = any(claim_noting.with_all_events)
        having count(*) > 0;
    end if;
end
$$;

create function pushq.queues_with_all_events() returns text[]
language sql stable
begin atomic
    select array(select queue.name from pushq.queues as queue where queue.all_events);
end;

-- For guests, and for supervisors that have run since before there were events.
create or replace function pushq.claim_locked(ids uuid[], its_supervisor text, its_pool int, its_token uuid)
returns table (
    id uuid, task text, queue text, payload text, attempt int, failures int, crashes int, max_attempts int,
    timeout double precision, tenant_id text, correlation_id text, token uuid)
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select
        claimed.id, claimed.task, claimed.queue, claimed.payload, claimed.attempt, claimed.failures, claimed.crashes,
        claimed.max_attempts, claimed.timeout, claimed.tenant_id, claimed.correlation_id, claimed.token
    from pushq.claim_noting(
        claim_locked.ids, claim_locked.its_supervisor, claim_locked.its_pool, claim_locked.its_token,
        pushq.queues_with_all_events()) as claimed;
end;


-- Outcomes ---------------------------------------------------------------------------------------------------------

-- pushq.end_quietly() and pushq.bring_back() carry progress along: the column joins those that a job keeps when its row moves.
do $$
declare
    function regprocedure;
begin
    foreach function in array '{
        "pushq.end_quietly(uuid[], uuid[], float8[], float8[], text[], text[], text[], text[])",
        "pushq.bring_back(uuid, date, timestamptz)"}'::regprocedure[]
    loop
        execute regexp_replace(
            pg_get_functiondef(function), '(\w+\.)?attempt, (\w+\.)?enqueued_at, (\w+\.)?supervisor', '\&, \1progress', 'g');
    end loop;
end
$$;

-- As in 0009_guests, and writes events. A job that is being cancelled ends as cancelled.
create or replace function pushq.give_back(
    ids uuid[], tokens uuid[], kinds text[], delays float8[], errors text[], tracebacks text[])
returns int[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    places int[];
    cancelling uuid[];
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
        returning
            outcome.place, job.id, job.queue, job.task, job.tenant_id, job.attempt, job.supervisor, job.apart, outcome.kind,
            outcome.delay, outcome.error as last_error, outcome.traceback as last_traceback
    ),
    tallied as (
        select pushq.tally_back('retried', array_agg(going_on.queue), array_agg(going_on.task))
        from going_on
        where going_on.kind in ('retried', 'snoozed')
    ),
    rung as (
        select pushq.ring_if_idle(touched.queue)
        from (select distinct going_on.queue from going_on) as touched
    ),
    noted as (
        select pushq.note_changes(
            null, '{}', array_agg(going_on.id), array_agg(going_on.tenant_id), array_agg(going_on.attempt), '{}',
            array_agg(going_on.kind), array_agg(going_on.delay), array_agg(going_on.last_error),
            array_agg(going_on.last_traceback), min(going_on.supervisor))
        from going_on
        where going_on.kind = 'retried' or going_on.queue = any(pushq.queues_with_all_events())
        having count(*) > 0
    )
    select
        case when count(*) < cardinality(give_back.ids) then coalesce(array_agg(going_on.place), '{}') end,
        array_agg(going_on.id order by going_on.id) filter (where going_on.apart = 'cancelling')
    into places, cancelling
    from going_on
    cross join (select count(*) from tallied) as tallying
    cross join (select count(*) from rung) as ringing
    cross join (select count(*) from noted) as noting;
    if cancelling is not null then
        perform pushq.end_jobs(
            cancelling, array_fill(null::uuid, array[cardinality(cancelling)]), null, null,
            array_fill('cancelled'::text, array[cardinality(cancelling)]), null, null, null);
    end if;
    return places;
end
$$;

-- As in 0011_waiting, and writes events. A null token: a person acts. A job that crashed is ended by a sweeper.
create or replace function pushq.end_jobs(
    ids uuid[], tokens uuid[], began float8[], ended float8[], kinds text[], errors text[], tracebacks text[], results text[])
returns int[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    before record;
    end_of_all record;
begin
    select
        array_agg(job.tenant_id order by given.place) as tenants,
        array_agg(job.attempt order by given.place) as attempts,
        array_agg(job.status order by given.place) as statuses,
        array_agg(case given.kind when 'crashed' then 'failed' else given.kind end order by given.place) as kinds,
        array_agg(
            coalesce(given.kind, 'succeeded') <> 'succeeded' or job.queue = any(pushq.queues_with_all_events())
            order by given.place) as noted,
        min(job.supervisor) as supervisor
    into before
    from unnest(end_jobs.ids, end_jobs.kinds) with ordinality as given (id, kind, place)
    left join pushq.jobs_unfinished as job on job.id = given.id;

    end_of_all := pushq.end_quietly(
        end_jobs.ids, end_jobs.tokens, end_jobs.began, end_jobs.ended, end_jobs.kinds, end_jobs.errors, end_jobs.tracebacks,
        end_jobs.results);
    perform pushq.note_changes(
        end_of_all.places, before.noted, end_jobs.ids, before.tenants, before.attempts, before.statuses, before.kinds, null,
        end_jobs.errors, end_jobs.tracebacks,
        case when end_jobs.tokens[1] is null or 'crashed' = any(end_jobs.kinds) then pushq.actor() else before.supervisor end);
    perform pushq.tell(end_of_all.told);
    return end_of_all.places;
end
$$;


-- Changes by hand -----------------------------------------------------------------------------------------------------

-- Notes an UPDATE or a DELETE of pushq.jobs by hand, with the old and new values. pushq's own statements name a partition, and pay
-- nothing. A statement that changes more than a thousand jobs has one event, with the number. Of payload and result the
-- event says only that they changed, because they may be large.
create or replace function pushq.note_edits() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    jobs bigint := (select count(*) from was);
begin
    if jobs > 1000 then
        insert into pushq.job_events (tenant_id, kind, actor, detail)
        select
            case when count(distinct was.tenant_id) = 1 and count(was.tenant_id) = jobs then min(was.tenant_id) end,
            case tg_op when 'DELETE' then 'deleted' else 'edited' end, pushq.actor(), jsonb_build_object('jobs', jobs)
        from was;
    elsif tg_op = 'DELETE' then
        insert into pushq.job_events (job_id, tenant_id, kind, was, attempt, actor, detail)
        select
            was.id, was.tenant_id, 'deleted', was.status, was.attempt, pushq.actor(),
            jsonb_build_object('task', was.task, 'queue', was.queue)
        from was;
    else
        insert into pushq.job_events (job_id, tenant_id, kind, was, became, attempt, actor, detail)
        select
            was.id, was.tenant_id, 'edited', was.status, coalesce(became.status, was.status),
            coalesce(became.attempt, was.attempt), pushq.actor(), changed.columns
        from was
        left join became on became.id = was.id and became.enqueued_at = was.enqueued_at
        cross join lateral (
            select jsonb_object_agg(
                past.key,
                case when past.key not in ('payload', 'result') then jsonb_build_array(past.value, present.value) end
            ) as columns
            from jsonb_each(to_jsonb(was) - 'token') as past
            left join jsonb_each(to_jsonb(became) - 'token') as present on present.key = past.key
            where past.value is distinct from present.value
        ) as changed
        where changed.columns is not null;
    end if;
    return null;
end
$$;

-- As in 0008_changes, and writes an event. The DELETE of pushq.bring_back() names pushq.jobs, and is no change by hand.
create or replace function pushq.retry(id uuid, expected text default null) returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    events text := coalesce(current_setting('pushq.events', true), '');
    was record;
    is_back boolean;
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
            update pushq.jobs as job
            set run_at = least(run_at, clock_timestamp()),
                failures = 0,
                crashes = 0
            where job.id = retry.id and job.finished_on = 'infinity';
            perform pushq.ring_bell(was.queue);
            return 'queued';
        end if;
        perform set_config('pushq.events', 'off', true);
        is_back := pushq.bring_back(retry.id, was.finished_on, was.finished_at);
        perform set_config('pushq.events', events, true);
        if is_back then
            perform pushq.note_changes(
                null, '{}', array[retry.id], array[job.tenant_id], array[job.attempt], array[was.status], '{retried}', null, null,
                null, pushq.actor())
            from pushq.jobs_unfinished as job
            where job.id = retry.id;
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

-- Changes the priority or the earliest start of a queued job; null: as it was. Returns why the job cannot be changed, or null. The
-- UPDATE names pushq.jobs, so that the change is noted.
create function pushq.edit_queued(id uuid, priority int, run_at timestamptz) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    was record := pushq.lock_job(edit_queued.id);
    why_not text := pushq.why_not(was.status, 'queued');
begin
    if why_not is null then
        update pushq.jobs as job
        set priority = coalesce(edit_queued.priority, job.priority),
            run_at = coalesce(edit_queued.run_at, job.run_at)
        where job.id = edit_queued.id and job.finished_on = 'infinity';
        if edit_queued.run_at is not null then
            perform pushq.ring_if_idle(was.queue);
        end if;
    end if;
    return why_not;
end
$$;

-- As in 0008_changes, and writes an event.
create or replace function pushq.reprioritize(id uuid, priority int) returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if reprioritize.priority is null or reprioritize.priority not between -32768 and 32767 then
        raise invalid_parameter_value using message = format(
            'pushq.reprioritize: a priority is a number from -32768 to 32767, not %s',
            coalesce(reprioritize.priority::text, 'null'));
    end if;
    return coalesce(pushq.edit_queued(reprioritize.id, reprioritize.priority, null), 'reprioritized');
end
$$;

-- As in 0008_changes, and writes an event.
create or replace function pushq.reschedule(id uuid, run_at timestamptz) returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if reschedule.run_at is null then
        raise invalid_parameter_value using message = 'pushq.reschedule: give the earliest start, an instant, not null';
    end if;
    return coalesce(pushq.edit_queued(reschedule.id, null, reschedule.run_at), 'rescheduled');
end
$$;

-- As in 0008_changes, and writes an event.
create or replace function pushq.change(id uuid, expected text, becomes text) returns text
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
        update pushq.jobs as job set status = 'queued', token = null, apart = pushq.apart(crashes)  -- cancelled no more
        where job.id = change.id and job.finished_on = 'infinity';
        perform pushq.recall(change.id, was.token), pushq.ring_if_idle(was.queue);
    end if;
    return coalesce(why_not, 'queued');
end
$$;

-- As in 0008_changes, but a running job that others wait for stays running until its pool has stopped the handler: the job is marked
-- as being cancelled, by apart, and the function returns 'cancelling'. Such a job goes on no more: what would queue the job again
-- ends the job as cancelled. A guest's job ends at once, since nobody stops a guest.
create or replace function pushq.cancel(id uuid, expected text default null) returns text
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
    elsif was.status = 'running' and pushq.mark_cancelling(cancel.id) then
        perform pushq.recall(cancel.id, was.token);
        return 'cancelling';
    elsif pushq.end_jobs(array[cancel.id], array[null::uuid], null, null, '{cancelled}', null, null, null) is not null then
        perform pushq.refuse_change(cancel.id);
    end if;
    perform pushq.recall(cancel.id, was.token);
    return 'cancelled';
end
$$;

-- Marks a running job of a pool as being cancelled, and writes the event, if others must not be told before its handler has stopped:
-- those that wait for the job. Returns whether the job is marked.
create function pushq.mark_cancelling(id uuid) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    job pushq.jobs;
begin
    select * into job
    from pushq.jobs_unfinished as its
    where its.id = mark_cancelling.id and its.waiters is not null
    and exists (select from pushq.supervisors as host where host.name = its.supervisor and host.pid > 0);
    if found and job.apart is distinct from 'cancelling' then
        update pushq.jobs_unfinished as its set apart = 'cancelling' where its.id = mark_cancelling.id;
        perform pushq.note_changes(
            null, '{}', array[job.id], array[job.tenant_id], array[job.attempt], null, '{cancelling}', null, null, null,
            pushq.actor());
    end if;
    return job.id is not null;
end
$$;

-- As in 0001_jobs, but the mark of a job that is being cancelled stays.
create or replace function pushq.set_apart() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if new.apart is distinct from 'cancelling' then
        new.apart := pushq.apart(new.crashes);
    end if;
    return new;
end
$$;

-- Keeps every transition of the queue's jobs as an event from now on, or only what is kept by default. Holds for jobs claimed from
-- now on. Returns 'all events' or 'some events', or 'as before'.
create function pushq.keep_all_events(queue text, is_on boolean default true) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if keep_all_events.queue is null or keep_all_events.is_on is null then
        raise invalid_parameter_value using message = 'pushq.keep_all_events: name the queue, and true or false';
    end if;
    insert into pushq.queues as known (name, all_events) values (keep_all_events.queue, keep_all_events.is_on)
    on conflict (name) do update set all_events = excluded.all_events where known.all_events <> excluded.all_events;
    return case when not found then 'as before' when keep_all_events.is_on then 'all events' else 'some events' end;
end
$$;

-- Adds an event of kind note to the job's, with what an application has to say. Returns the event's id. Raises
-- foreign_key_violation if there is no such job that the caller may touch.
create function pushq.note(id uuid, detail jsonb) returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    its_id bigint;
begin
    insert into pushq.job_events (job_id, tenant_id, kind, attempt, actor, detail)
    select job.id, job.tenant_id, 'note', job.attempt, pushq.actor(), note.detail
    from pushq.jobs as job
    where job.id = note.id and pushq.may_touch(job.tenant_id)
    order by job.finished_on desc, job.finished_at desc
    limit 1
    returning job_events.id into its_id;
    if its_id is null then
        raise foreign_key_violation using message = format('pushq.note: there is no job %s', coalesce(note.id::text, 'null'));
    end if;
    return its_id;
end
$$;

-- Whoever could change rows by hand writes events by the functions. The functions of triggers are for pushq's triggers alone, since
-- a trigger of a user's own table would let its owner invent events.
revoke execute on function
    pushq.note_changes(int[], boolean[], uuid[], text[], int[], text[], text[], float8[], text[], text[], text),
    pushq.note_phases(uuid[], uuid[], text[]), pushq.note(uuid, jsonb), pushq.note_edits(), pushq.make_event_days_too()
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
            'grant execute on function pushq.note_changes(int[], boolean[], uuid[], text[], int[], text[], text[], float8[], '
            'text[], text[], text), pushq.note_phases(uuid[], uuid[], text[]), pushq.note(uuid, jsonb), pushq.make_event_days(), pushq.retire_event_days() to %s',
            its_role);
        execute format('grant select on pushq.job_events to %s', its_role);
    end loop;
end
$$;


-- Tenants --------------------------------------------------------------------------------------------------------------

-- The tables whose rows belong to tenants, each with a column tenant_id, and an index of it named after the table.
create function pushq.tables_of_tenants() returns table (name text, index_columns text)
language sql immutable parallel safe
begin atomic
    values ('jobs', 'tenant_id, enqueued_at'), ('job_events', 'tenant_id, id');
end;

-- As in 0007_tenants, for all tables of tenants.
create or replace function pushq.missing_for_tenants() returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select part.name
    from pushq.tables_of_tenants() as its
    cross join to_regclass('pushq.' || its.name) as its_table
    cross join lateral (
        values
            ('row-level security of ' || its.name, (select relrowsecurity from pg_class where oid = its_table)),
            ('policy by_grants of ' || its.name, exists (
                select from pg_policy
                where polrelid = its_table and polname = 'by_grants' and polpermissive and polcmd = '*'
                and polroles = '{0}' and pg_get_expr(polqual, polrelid) = 'true'
                and pg_get_expr(polwithcheck, polrelid) = 'true')),
            ('policy tenants of ' || its.name, exists (
                select from pg_policy
                where polrelid = its_table and polname = 'tenants' and not polpermissive and polcmd = '*'
                and polroles = array[to_regrole('pushq_tenant')]::oid[]
                and replace(pg_get_expr(polqual, polrelid), ' AS tenant', '') = '(tenant_id = ( SELECT pushq.tenant()))'
                and replace(pg_get_expr(polwithcheck, polrelid), ' AS tenant', '') = '(tenant_id = ( SELECT pushq.tenant()))')),
            ('rights of pushq_tenant on ' || its.name, case
                when to_regrole('pushq_tenant') is null then false
                else has_column_privilege(to_regrole('pushq_tenant'), its_table, 'tenant_id', 'select') end),
            ('index ' || its.name || '_of_tenant', exists (
                select from pg_index where indexrelid = to_regclass('pushq.' || its.name || '_of_tenant') and indisvalid))
    ) as part (name, is_there)
    where not coalesce(part.is_there, false);
end;

-- As in 0007_tenants.
create or replace function pushq.is_separated() returns boolean
language sql stable
return exists (
        select from pg_catalog.pg_policy
        where polrelid = pg_catalog.to_regclass('pushq.jobs') and polname in ('by_grants', 'tenants'))
    or 'rights of pushq_tenant on jobs' not in (select pushq.missing_for_tenants());

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
            progress, finished_on),
        insert (
            id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
            submitted_by, waiters)
        on pushq.jobs to pushq_tenant;
    -- Without actor and detail, which name operators and supervisors.
    grant select (id, job_id, tenant_id, kind, was, became, attempt, at, error, traceback, tx, day)
        on pushq.job_events to pushq_tenant;
    grant execute on function
        pushq.tenant(), pushq.tenant_of(name), pushq.uuidv7(), pushq.broken_rule, pushq.refuse_job(text),
        pushq.may_have_long_numbers(jsonb), pushq.is_too_long(jsonb), pushq.gate_clock(), pushq.ring_bell(text),
        pushq.schema_version(), pushq.cancel(uuid, text), pushq.retry(uuid, text), pushq.reprioritize(uuid, int),
        pushq.reschedule(uuid, timestamptz), pushq.are_channels(text[]), pushq.watch(uuid, text), pushq.unwatch(uuid, text),
        pushq.note(uuid, jsonb)
        to pushq_tenant;
    grant select on pushq.migrations to pushq_tenant;
end
$$;

-- As in 0007_tenants, for all tables of tenants.
create or replace function pushq.separate_tenants() returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
as $$
declare
    was_separated boolean;
    missing text[];
    its record;
    others text;
begin
    lock table pushq.tenant_roles in share row exclusive mode;  -- one at a time
    was_separated := pushq.is_separated();
    if to_regrole('pushq_tenant') is null then
        begin
            create role pushq_tenant nologin;
        exception
            when duplicate_object or unique_violation then
                null;  -- made meanwhile, in another database
            when insufficient_privilege then
                raise insufficient_privilege using message = format(
                    'pushq.separate_tenants: an administrator must run `create role pushq_tenant nologin` first, which %s may not',
                    current_user);
        end;
    end if;
    missing := array(select pushq.missing_for_tenants());

    for its in select * from pushq.tables_of_tenants() loop
        select string_agg(quote_ident(polname), ', ' order by polname) into others
        from pg_policy
        where polrelid = to_regclass('pushq.' || its.name) and polpermissive and polname <> 'by_grants';
        if 'policy by_grants of ' || its.name = any(missing) and others is not null then
            raise object_not_in_prerequisite_state using
                message = format('pushq.separate_tenants: pushq.%s has policies of your own: %s', its.name, others),
                detail = 'Beside a policy by which rights come from grants, they would hide nothing any more.',
                hint = 'Drop them, or make them restrictive, and call the function again.';
        end if;

        -- Only what is missing is made, since each step waits for open transactions, and others wait for the step. An index may
        -- have taken over a part whose building had failed. Then both go.
        for _ in 1..2 loop
            exit when 'index ' || its.name || '_of_tenant' not in (select pushq.missing_for_tenants());
            execute format('drop index if exists pushq.%I', its.name || '_of_tenant');
            execute format(
                'create index %I on pushq.%I (%s) where tenant_id is not null', its.name || '_of_tenant', its.name,
                its.index_columns);
        end loop;
        if 'policy by_grants of ' || its.name = any(missing) then
            execute format('drop policy if exists by_grants on pushq.%I', its.name);
            execute format('create policy by_grants on pushq.%I using (true) with check (true)', its.name);
        end if;
        if 'policy tenants of ' || its.name = any(missing) then
            execute format('drop policy if exists tenants on pushq.%I', its.name);
            execute format(
                'create policy tenants on pushq.%I as restrictive to pushq_tenant '
                'using (tenant_id = (select pushq.tenant())) with check (tenant_id = (select pushq.tenant()))', its.name);
        end if;
        if 'row-level security of ' || its.name = any(missing) then
            execute format('alter table pushq.%I enable row level security', its.name);
        end if;
    end loop;
    perform pushq.grant_to_tenants();
    return case when was_separated then 'already separated' else 'separated' end;
end
$$;

-- As in 0007_tenants, for all tables of tenants.
create or replace function pushq.unite_tenants() returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
as $$
declare
    its record;
begin
    if not pushq.is_separated() then
        return 'not separated';
    end if;
    if to_regrole('pushq_tenant') is not null then
        revoke all on all tables in schema pushq from pushq_tenant;
        revoke all on all functions in schema pushq from pushq_tenant;
    end if;
    for its in select * from pushq.tables_of_tenants() loop
        execute format('drop policy if exists tenants on pushq.%I', its.name);
        execute format('drop policy if exists by_grants on pushq.%I', its.name);
        if not exists (select from pg_policy where polrelid = to_regclass('pushq.' || its.name)) then
            execute format('alter table pushq.%I disable row level security', its.name);
        end if;
        execute format('drop index if exists pushq.%I', its.name || '_of_tenant');
    end loop;
    return 'united';
end
$$;

-- Deletes up to `most` rows of a tenant: unfinished jobs first, running ones included, then finished jobs, then events. Returns the
-- number of deleted jobs, or of events if no job was left. Repeat until 0. The outcome of a deleted job is refused. Each step is
-- quick where tenants are kept apart, by the indexes.
create or replace function pushq.delete_tenant(tenant text, most int default 5000) returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    deleted bigint := 0;
    events bigint := 0;
    is_done boolean := false;
    more bigint;
    its_table regclass;
    has_events boolean;
begin
    if coalesce(delete_tenant.tenant, '') = '' or coalesce(delete_tenant.most, 0) < 1 then
        raise invalid_parameter_value using message = format(
            'pushq.delete_tenant(%L, %s): name the tenant, and at least one job a step',
            delete_tenant.tenant, coalesce(delete_tenant.most::text, 'null'));
    end if;
    -- In rounds, since a job that was locked may have moved, by an end or a retry, to a place already passed.
    for _ in 1..100 loop
        -- In the order of ids, as outcomes are written, so that no deadlock arises.
        with going as materialized (
            select id
            from pushq.jobs_unfinished as job
            where job.tenant_id = delete_tenant.tenant
            order by id
            limit delete_tenant.most - deleted - events
            for update
        ),
        gone as (
            delete from pushq.jobs_unfinished as job using going where job.id = going.id
            returning job.id, job.token
        )
        select count(*) into more from gone cross join lateral pushq.recall(gone.id, gone.token);
        deleted := deleted + more;
        for its_table, has_events in
            select partition.oid, inhparent = 'pushq.job_events'::regclass
            from pg_inherits
            join pg_class as partition on partition.oid = inhrelid
            where inhparent in ('pushq.jobs'::regclass, 'pushq.job_events'::regclass) and not inhdetachpending
            and inhrelid <> 'pushq.jobs_unfinished'::regclass
            order by inhparent = 'pushq.job_events'::regclass, partition.relname
        loop
            exit when deleted + events >= delete_tenant.most;
            execute format(
                'with gone as (delete from %1$s where ctid = any(array('
                'select ctid from %1$s where tenant_id = $1 limit $2 for update)) returning 1) '
                'select count(*) from gone',
                its_table)
            into more
            using delete_tenant.tenant, delete_tenant.most - deleted - events;
            deleted := deleted + case when has_events then 0 else more end;
            events := events + case when has_events then more else 0 end;
        end loop;
        is_done := deleted + events >= delete_tenant.most or not (
            exists (select from pushq.jobs as job where job.tenant_id = delete_tenant.tenant)
            or exists (select from pushq.job_events as event where event.tenant_id = delete_tenant.tenant));
        exit when is_done;
    end loop;
    if not is_done and deleted + events = 0 then
        raise insufficient_privilege using message = format(
            'rows of tenant %L can be seen and not deleted: a trigger or a row-level policy says so', delete_tenant.tenant);
    end if;
    return case when deleted > 0 then deleted else events end;
end
$$;

do $$
begin
    if pushq.is_separated() and to_regrole('pushq_tenant') is not null then
        perform pushq.separate_tenants();
    end if;
end
$$;
