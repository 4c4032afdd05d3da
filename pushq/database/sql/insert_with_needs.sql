-- As insert.sql, for jobs of which some need something: also $14 needs, $15 limit_key and $16 affinity, each empty if no job has any.
insert into pushq.jobs (
    id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
    traceparent, webhook_url, needs, limit_key, affinity)
select
    id, task, payload::jsonb, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
    traceparent, webhook_url, needs::jsonb, limit_key, affinity
from (
    select
        coalesce(id, pushq.uuidv7()) as id, task, payload, queue, priority, coalesce(run_at, now()) as run_at,
        max_attempts, timeout, unique_key, tenant_id, correlation_id, traceparent, webhook_url, needs,
        limit_key, affinity, position
    from unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::timestamptz[], $7::int[], $8::interval[],
        $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
        $16::text[]
    ) with ordinality as given (
        id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
        traceparent, webhook_url, needs, limit_key, affinity, position)
) as job
order by unique_key, tenant_id, case when unique_key is null then id end, position
on conflict do nothing
returning id
