-- Inserts jobs, given as one array a column: $1 id, $2 task, $3 payload, $4 queue, $5 priority, $6 run_at, $7 max_attempts,
-- $8 timeout, $9 unique_key, $10 tenant_id, $11 correlation_id, and $12 traceparent and $13 webhook_url, each empty if no job has
-- any. A null id or run_at takes the table's default. A job whose unique_key an unfinished job has is left out. Returns the
-- inserted ids.
--
-- Ids are made in the order given. Rows are inserted in the order of keys, or of ids without keys, so that two sessions that
-- insert the same keys never deadlock.
insert into pushq.jobs (
    id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
    traceparent, webhook_url)
select
    id, task, payload::jsonb, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
    traceparent, webhook_url
from (
    select
        coalesce(id, pushq.uuidv7()) as id, task, payload, queue, priority, coalesce(run_at, now()) as run_at,
        max_attempts, timeout, unique_key, tenant_id, correlation_id, traceparent, webhook_url, position
    from unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::timestamptz[], $7::int[], $8::interval[],
        $9::text[], $10::text[], $11::text[], $12::text[], $13::text[]
    ) with ordinality as given (
        id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
        traceparent, webhook_url, position)
) as job
order by unique_key, tenant_id, case when unique_key is null then id end, position
on conflict do nothing
returning id
