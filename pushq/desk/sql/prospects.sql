-- Whether a job of task $1 in queue $2 will be run. is_known: a supervisor has ever known the task. is_paused: the queue is
-- paused. served: the queues of live supervisors. served_with_task: the queues of live supervisors that know the task. known:
-- if the task is unknown, up to a thousand names of known tasks.
with live as (
    select tasks, queues from pushq.supervisors where lease_until > now()
),
served as (
    select distinct queue, live.tasks @> array[$1::text] as knows_task
    from live, unnest(live.queues) as queue
),
task as (
    select exists (select from pushq.tasks where name = $1) as is_known
)
select
    task.is_known,
    exists (select from pushq.queues where name = $2 and paused_at is not null) as is_paused,
    array(select distinct queue from served order by 1) as served,
    array(select queue from served where knows_task order by 1) as served_with_task,
    array(select name from pushq.tasks where not task.is_known order by name limit 1000) as known
from task
