-- Gives labels to tasks $2 on queues $1, the ones with which they are registered: they need no place, and their counters begin
-- at zero. By turns, as pushq.label() does.
with turn as (
    insert into pushq.labels (queue, task) values ('_other', '_other')
    on conflict on constraint labels_pkey do update set place = null
    returning true
)
insert into pushq.labels (queue, task)
select own.queue, own.task
from unnest($1::text[], $2::text[]) as own (queue, task)
cross join turn
on conflict on constraint labels_pkey do nothing
