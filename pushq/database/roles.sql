-- Three roles, each with what it needs. Run this as the owner of the schema, as often as you like, and grant the
-- roles to your logins.

do $$ begin create role {producer} nologin; exception when duplicate_object then null; end $$;
grant usage on schema pushq to {producer};
grant insert (
    id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, submitted_by
) on pushq.jobs to {producer};
grant select (id) on pushq.jobs to {producer};

-- For `pushq supervise`, `pushq sweep`, and the commands that change jobs and queues. It need not own the table. Then the
-- empty partitions of days past retention stay until a `pushq sweep` of the owner drops them.
do $$ begin create role {worker} nologin; exception when duplicate_object then null; end $$;
grant usage on schema pushq to {worker};
grant select, insert, update, delete on all tables in schema pushq to {worker};
revoke insert, update, delete on pushq.migrations from {worker};
grant usage, select, update on all sequences in schema pushq to {worker};
grant execute on function pushq.make_days(int), pushq.retire_days(interval) to {worker};

-- For `pushq exporter`, `pushq jobs` and `pushq queues` where they only list.
do $$ begin create role {observer} nologin; exception when duplicate_object then null; end $$;
grant usage on schema pushq to {observer};
grant select on all tables in schema pushq to {observer};
