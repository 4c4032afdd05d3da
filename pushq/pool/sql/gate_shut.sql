-- Shuts the gates of the queues $1 and rings everybody, so that pools that are idle open them again. If the bell cannot be
-- rung they stay open. Rings even where they are shut: an earlier try may have been undone between the two.
select count(setval(gate, 0))
from (select distinct pushq.gate(queue) as gate from unnest($1::text[]) as queue) as gates
where (select pushq.ring_bell(''))
