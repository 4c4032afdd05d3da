-- What rows, columns and names at the edge have broken: functions of earlier migrations, once more.

insert into pushq.migrations (version, name) values (15, '0015_edges');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 15;

-- As in 0011_waiting, but for arrays of more dimensions, which no function could change.
create or replace function pushq.are_channels(names text[]) returns boolean
language sql immutable parallel safe
return case
    when array_ndims(names) = 1 and cardinality(names) between 1 and 16 then (
        select bool_and(coalesce(channel.name ~ '^pushq_[0-9a-z_]{1,57}$', false)) from unnest(names) as channel (name))
    else false
end;

-- As in 0013_events. The tables have names that no column of a user has.
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
            case
                when count(distinct pushq_was.tenant_id) = 1 and count(pushq_was.tenant_id) = jobs
                    then min(pushq_was.tenant_id)
            end,
            case tg_op when 'DELETE' then 'deleted' else 'edited' end, pushq.actor(), jsonb_build_object('jobs', jobs)
        from was as pushq_was;
    elsif tg_op = 'DELETE' then
        insert into pushq.job_events (job_id, tenant_id, kind, was, attempt, actor, detail)
        select
            pushq_was.id, pushq_was.tenant_id, 'deleted', pushq_was.status, pushq_was.attempt, pushq.actor(),
            jsonb_build_object('task', pushq_was.task, 'queue', pushq_was.queue)
        from was as pushq_was;
    else
        insert into pushq.job_events (job_id, tenant_id, kind, was, became, attempt, actor, detail)
        select
            pushq_was.id, pushq_was.tenant_id, 'edited', pushq_was.status, coalesce(pushq_is.status, pushq_was.status),
            coalesce(pushq_is.attempt, pushq_was.attempt), pushq.actor(), changed.columns
        from was as pushq_was
        left join became as pushq_is on pushq_is.id = pushq_was.id and pushq_is.enqueued_at = pushq_was.enqueued_at
        cross join lateral (
            select jsonb_object_agg(
                past.key,
                case when past.key not in ('payload', 'result') then jsonb_build_array(past.value, present.value) end
            ) as columns
            from jsonb_each(to_jsonb(pushq_was) - 'token') as past
            left join jsonb_each(to_jsonb(pushq_is) - 'token') as present on present.key = past.key
            where past.value is distinct from present.value
        ) as changed
        where changed.columns is not null;
    end if;
    return null;
end
$$;

-- As in 0013_events, for one queue with a name.
create or replace function pushq.keep_all_events(queue text, is_on boolean default true) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not coalesce(length(keep_all_events.queue) between 1 and 200 and keep_all_events.queue <> '*', false)
        or keep_all_events.is_on is null
    then
        raise invalid_parameter_value using message = format(
            'pushq.keep_all_events: name one queue, by 1 to 200 characters, and true or false, not %L, %L; ''*'' stands for no queue here',
            left(keep_all_events.queue, 100), keep_all_events.is_on);
    end if;
    insert into pushq.queues as known (name, all_events) values (keep_all_events.queue, keep_all_events.is_on)
    on conflict (name) do update set all_events = excluded.all_events where known.all_events <> excluded.all_events;
    return case when not found then 'as before' when keep_all_events.is_on then 'all events' else 'some events' end;
end
$$;

-- As in 0013_events, with at most 64 KiB of detail.
create or replace function pushq.note(id uuid, detail jsonb) returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    its_id bigint;
begin
    if octet_length(note.detail::text) > 65536 then
        raise invalid_parameter_value using message = format(
            'pushq.note: the detail has %s bytes as text, and at most 65536 are kept; note a reference instead',
            octet_length(note.detail::text));
    end if;
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
