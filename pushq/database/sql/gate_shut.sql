-- Shuts the gates of the queues $1 and rings everybody, so that pools that are idle open them again. If the bell cannot be
-- rung they stay open.
select count(setval(gate, 0))
from (
    select distinct pushq.gate(queue) as gate
    from unnest($1::text[]) as queue
    where pg_sequence_last_value(pushq.gate(queue)) > pushq.gate_clock()
) as gates
where pushq.ring_bell('')
