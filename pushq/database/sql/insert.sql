-- Inserts the jobs given column by column ($1 to $11: id, task, payload, queue, priority, run_at, max_attempts, timeout,
-- unique_key, tenant_id, correlation_id), in one statement. A null id or run_at takes the table's default. Jobs whose
-- unique_key is taken by an unfinished job are left out. Returns the ids that were inserted.
insert into pushq.jobs (
    id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id)
select
    coalesce(id, pushq.uuidv7()), task, payload::jsonb, queue, priority, coalesce(run_at, now()), max_attempts, timeout,
    unique_key, tenant_id, correlation_id
from unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::timestamptz[], $7::int[], $8::interval[],
    $9::text[], $10::text[], $11::text[]
) as job (
    id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id)
on conflict do nothing
returning id
