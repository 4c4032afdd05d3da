-- Who may run a job of task $1 in queue $2: whether any supervisor has known the task, whether the queue is paused, the
-- queues of live supervisors, and those of them that live supervisors which know the task serve; beside them, where the
-- task is unknown, the names of those that are known, no more than a thousand.
with live as (
    select tasks, queues from pushq.supervisors where lease_until > now()
),
served as (
    select distinct queue, live.tasks @> array[$1::text] as by_those_who_know
    from live, unnest(live.queues) as queue
),
task as (
    select exists (select from pushq.tasks where name = $1) as is_known
)
select
    task.is_known,
    exists (select from pushq.queues where name = $2 and paused_at is not null) as is_paused,
    array(select distinct queue from served order by 1) as served,
    array(select queue from served where by_those_who_know order by 1) as served_knowingly,
    array(select name from pushq.tasks where not task.is_known order by name limit 1000) as known
from task
