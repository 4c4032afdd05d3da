-- Inserts the jobs given column by column ($1 to $11: id, task, payload, queue, priority, run_at, max_attempts, timeout,
-- unique_key, tenant_id, correlation_id), in one statement. A null id or run_at takes the table's default. Jobs whose
-- unique_key is taken by an unfinished job are left out. Returns the ids that were inserted.
--
-- Ids are made in the order given. The rows are inserted in the order of their keys, or ids: of two who insert the same ones
-- at once one waits for the other, and never each for the other.
insert into pushq.jobs (
    id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id)
select id, task, payload::jsonb, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id
from (
    select
        coalesce(id, pushq.uuidv7()) as id, task, payload, queue, priority, coalesce(run_at, now()) as run_at,
        max_attempts, timeout, unique_key, tenant_id, correlation_id, position
    from unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::timestamptz[], $7::int[], $8::interval[],
        $9::text[], $10::text[], $11::text[]
    ) with ordinality as given (
        id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
        position)
) as job
order by unique_key, tenant_id, case when unique_key is null then id end, position
on conflict do nothing
returning id
