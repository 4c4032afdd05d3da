-- Five roles, each with the rights that the role needs, none of them by way of PUBLIC. Run this as the owner of the tables, as
-- often as you like, also after a restore without privileges. Then grant the roles to your logins. This is one statement:
-- either everything is done, or nothing.
do $roles$
declare
    roles text[] := array[{names}];
    path text := pg_catalog.current_setting('search_path');
    tables_owner name;
    may_grant_usage boolean;
    unmade text[];
    homeless text[];
    its_table regclass;
    gates text;
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    select pg_get_userbyid(relowner) into tables_owner
    from pg_class where relname = 'jobs' and relnamespace = to_regnamespace('pushq');
    if tables_owner is null then
        raise exception 'database % has no pushq schema: run `pushq migrate` first', current_database();
    elsif not pg_has_role(tables_owner, 'usage') then
        raise exception 'pushq.jobs belongs to %: run this as that role, not as %', tables_owner, current_user;
    end if;

    -- Steps that need an administrator are raised at once, as statements to run.
    may_grant_usage := has_schema_privilege('pushq', 'usage with grant option');
    select array_agg(role) filter (where to_regrole(role) is null), array_agg(role) filter (where case
        when to_regrole(role) is null then true
        else not has_schema_privilege(to_regrole(role), 'pushq', 'usage') end)
    into unmade, homeless
    from (select quote_ident(name) as role from unnest(roles) as name) as named;
    if unmade is not null and not (select rolcreaterole or rolsuper from pg_roles where rolname = current_user)
        or homeless is not null and not may_grant_usage
    then
        raise exception 'an administrator must run `%` first, which % may not; then repeat this',
            concat_ws('; ',
                'create role ' || array_to_string(unmade, ' nologin; create role ') || ' nologin',
                case when not may_grant_usage then
                    'grant usage on schema pushq to ' || array_to_string(homeless, ', ') end),
            current_user;
    end if;
    for position in 1..coalesce(cardinality(unmade), 0) loop
        execute format('create role %s nologin', unmade[position]);
    end loop;
    if may_grant_usage then
        grant usage on schema pushq to {producer}, {worker}, {observer}, {admin}, {tenant};
    end if;

    -- Tenants have nothing, until pushq.separate_tenants() is called. Then all again, since a restore may have lost some parts.
    if pushq.is_separated() then
        perform pushq.separate_tenants();
    end if;

    -- Some hosts switch row-level security on for every new table. Without a policy, every row is hidden from all but the
    -- owner.
    for its_table in
        select oid::regclass from pg_class as class
        where oid = any('{{
            pushq.jobs, pushq.jobs_unfinished, pushq.supervisors, pushq.queues, pushq.tasks, pushq.labels, pushq.tallies,
            pushq.tally_log, pushq.census, pushq.census_running, pushq.census_clock, pushq.days, pushq.migrations,
            pushq.tenant_roles, pushq.job_events, pushq.unique_windows, pushq.purges, pushq.artifacts,
            pushq.artifact_drafts, pushq.artifact_pieces, pushq.artifact_bytes, pushq.webhooks, pushq.noted_queues,
            pushq.resources, pushq.tokens, pushq.turnstiles, pushq.tenants, pushq.affinities, pushq.schedules
            }}'::regclass[])
        and relrowsecurity
        and not exists (select from pg_policy where polrelid = class.oid)
    loop
        execute format('alter table %s disable row level security', its_table);
    end loop;

    -- As in the migrations: an INSERT only reads a gate, and some functions act with the owner's rights.
    select string_agg(oid::regclass::text, ', ') into gates
    from pg_class
    where relnamespace = 'pushq'::regnamespace and relkind = 'S' and relname ~ '^gate_\d+$';
    execute format('grant select on sequence %s, pushq.inserts_noted, pushq.needs_stamped to public, %I', gates, roles[1]);
    execute format('grant usage, select, update on sequence %s to %I, %I', gates, roles[2], roles[4]);
    revoke execute on function
        pushq.make_days(int), pushq.retire_days(interval), pushq.days_to_purge(interval),
        pushq.purge_day(date, interval, int, int), pushq.tenant_of(name), pushq.may_touch(text), pushq.grant_to_tenants(),
        pushq.separate_tenants(), pushq.unite_tenants(), pushq.delete_tenant(text, int), pushq.cancel(uuid, text), pushq.retry(uuid, text),
        pushq.reprioritize(uuid, int), pushq.reschedule(uuid, timestamptz), pushq.change(uuid, text, text),
        pushq.watch(uuid, text), pushq.unwatch(uuid, text), pushq.make_event_days(), pushq.retire_event_days(),
        pushq.note_phases(uuid[], uuid[], text[]), pushq.make_event_days_too(), pushq.note_edits(), pushq.note(uuid, jsonb),
        pushq.note_changes(int[], boolean[], uuid[], text[], int[], text[], text[], float8[], text[], text[], text),
        pushq.open_window(text, text, interval), pushq.note_window(text, text, uuid, timestamptz), pushq.forget_windows(int),
        pushq.standing_job, pushq.find_standing, pushq.meet_standing, pushq.make_artifact_days(), pushq.retire_artifact_days(),
        pushq.begin_artifact, pushq.append_artifact,
        pushq.complete_artifact, pushq.discard_artifact, pushq.artifact_piece, pushq.read_artifact, pushq.forget_drafts(),
        pushq.forget_artifacts, pushq.forget_artifact_bytes(),
        pushq.set_lane(), pushq.note_rules(), pushq.rest_needs(), pushq.position(uuid), pushq.why(uuid),
        pushq.why_queue(text), pushq.recent_rate(text), pushq.copy_noted_queues(), pushq.rest_inserts(), pushq.webhooks_of(text, text, text),
        pushq.deliver(bigint[], uuid[], text[], timestamptz[], int[], text[], jsonb[]), pushq.deliver_to_urls(uuid[]),
        pushq.keep_schedules, pushq.refuse_slot, pushq.find_schedule, pushq.run_schedule, pushq.pause_schedule,
        pushq.resume_schedule, pushq.ring_for_schedules(), pushq.set_schedule()
        from public;

    grant insert (
        id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
        submitted_by, waiters, webhook_url, traceparent, needs, limit_key, affinity
    ) on pushq.jobs to {producer};
    grant select (id) on pushq.jobs to {producer};
    grant execute on function
        pushq.uuidv7(), pushq.broken_rule, pushq.refuse_job(text), pushq.may_have_long_numbers(jsonb),
        pushq.is_too_long(jsonb), pushq.gate_clock(), pushq.ring_bell(text), pushq.ring(text),
        pushq.are_channels(text[]), pushq.is_webhook_url(text), pushq.is_traceparent(text), pushq.broken_rule_of_options,
        pushq.watch(uuid, text), pushq.unwatch(uuid, text), pushq.note_insert(uuid), pushq.enqueue,
        pushq.enqueue_many(jsonb, text, interval, interval), pushq.check_enqueue(text, interval, interval),
        pushq.open_window(text, text, interval), pushq.note_window(text, text, uuid, timestamptz), pushq.standing_job,
        pushq.find_standing, pushq.meet_standing, pushq.broken_rule_of_needs, pushq.run_schedule, pushq.pause_schedule,
        pushq.resume_schedule
        to {producer};
    -- A schedule is a standing INSERT. Its payload is not read.
    grant
        select (id, name, tenant_id, cron, zone, every, task, queue, missed, paused_at, next_at, last_at, error),
        insert (id, name, tenant_id, cron, zone, every, task, payload, queue, needs, missed, paused_at, next_at),
        update (name, tenant_id, cron, zone, every, task, payload, queue, needs, missed, paused_at, next_at, error),
        delete
        on pushq.schedules to {producer};
    -- For the check that program and schema fit.
    grant select on pushq.migrations to {producer};
    grant execute on function pushq.schema_version() to {producer}, {observer};

    -- For `pushq supervise`, `pushq sweep`, and the commands that change jobs and queues. The role need not own the tables.
    -- Empty partitions of days past retention then stay until the owner runs `pushq sweep`.
    grant select, insert, update, delete on
        pushq.jobs, pushq.jobs_unfinished, pushq.supervisors, pushq.queues, pushq.tasks, pushq.labels, pushq.tallies,
        pushq.tally_log, pushq.census, pushq.census_running, pushq.census_clock, pushq.days, pushq.webhooks,
        pushq.resources, pushq.tokens, pushq.turnstiles, pushq.tenants, pushq.affinities, pushq.schedules
        to {worker}, {admin};
    grant select on
        pushq.migrations, pushq.tenant_roles, pushq.job_events, pushq.artifacts, pushq.artifact_drafts, pushq.noted_queues
        to {worker}, {admin};
    grant execute on all functions in schema pushq to {worker}, {admin};

    -- For whoever operates the queue: all that a worker may, and tenants.
    grant select, insert, update, delete on pushq.tenant_roles to {admin};
    revoke execute on function
        pushq.grant_to_tenants(), pushq.separate_tenants(), pushq.unite_tenants(), pushq.delete_tenant(text, int)
        from {worker};


    -- For `pushq exporter`, and for `pushq jobs` and `pushq queues` as lists.
    grant select on
        pushq.jobs, pushq.jobs_unfinished, pushq.supervisors, pushq.queues, pushq.tasks, pushq.labels, pushq.tallies,
        pushq.tally_log, pushq.census, pushq.census_running, pushq.census_clock, pushq.days, pushq.migrations,
        pushq.tenant_roles, pushq.job_events, pushq.artifacts, pushq.noted_queues, pushq.resources, pushq.tokens,
        pushq.tenants, pushq.affinities, pushq.schedules
        to {observer};
    grant select (id, tenant_id, queue, task, statuses, url, body, paused_at, created_at) on pushq.webhooks to {observer};
    grant execute on function
        pushq.run_bounds(), pushq.wait_bounds(), pushq.keep_rules(), pushq.artifact_piece, pushq.read_artifact,
        pushq.position(uuid), pushq.why(uuid), pushq.why_queue(text)
        to {observer};

    perform set_config('search_path', path, true);
end
$roles$;
