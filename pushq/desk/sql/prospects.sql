-- The prospects of queued jobs of the tasks $1 in the queues $2, given as pairs: a row for each pair. is_known: a supervisor
-- has ever known the task. is_paused: the queue is paused, by its name; are_all_paused: all queues are. is_anybody_alive: a
-- supervisor is. served_with_task: the queues of live supervisors that know the task. idle: how many workers of live
-- supervisors that know the task and serve the queue run no job; null if a supervisor has not said how many workers it has.
-- Deliveries of webhooks have workers of their own, which are not counted.
-- known: if the task is unknown, up to a thousand names of known tasks.
with live as materialized (
    select
        name, tasks, queues, nullif(workers, 0) as workers,
        (
            select count(*)
            from pushq.jobs_unfinished as job
            where job.status = 'running' and job.supervisor = living.name and job.queue <> 'pushq.webhooks'
        ) as busy
    from pushq.supervisors as living
    where lease_until > now()
)
select
    asked.task,
    asked.queue,
    known.is_known,
    exists (select from pushq.queues where name = asked.queue and paused_at is not null) as is_paused,
    exists (select from pushq.queues where name = '*' and paused_at is not null) as are_all_paused,
    exists (select from live) as is_anybody_alive,
    array(
        select distinct served from live cross join unnest(live.queues) as served where asked.task = any(live.tasks) order by 1
    ) as served_with_task,
    (
        select case when bool_and(workers is not null) then sum(greatest(workers - busy, 0))::int end
        from live
        where asked.task = any(live.tasks) and asked.queue = any(live.queues)
    ) as idle,
    array(select name from pushq.tasks where not known.is_known order by name limit 1000) as known
from (select distinct task, queue from unnest($1::text[], $2::text[]) as pair (task, queue)) as asked
cross join lateral (select exists (select from pushq.tasks where name = asked.task) as is_known) as known
