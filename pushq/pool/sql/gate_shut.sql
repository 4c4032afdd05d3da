-- Shuts the gates of the queues $1 and rings everybody, so that idle pools open them again. If the bell cannot be rung, the
-- gates stay open. Rings even if the gates are shut: an earlier try may have been rolled back in between.
select count(setval(gate, 0))
from (select distinct pushq.gate(queue) as gate from unnest($1::text[]) as queue) as gates
where (select pushq.ring_bell(''))
