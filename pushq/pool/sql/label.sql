-- Gives labels to the tasks $2 on their own queues $1. Such labels need no place, and their counters begin at zero. By
-- turns, as in pushq.label().
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
