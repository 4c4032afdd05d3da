-- Writes "somebody is idle for $2 more milliseconds" into the gates of the queues $1. Returns whether a gate had been shut
-- or run out: inserters may have skipped the bell since the last write.
with gate as materialized (
    select gate, coalesce(pg_sequence_last_value(gate), 0) as was
    from (select distinct pushq.gate(queue) as gate from unnest($1::text[]) as queue) as gates
)
select bool_or(was < pushq.gate_clock()) as was_shut, count(setval(gate, greatest(was, pushq.gate_clock() + $2::bigint)))
from gate
