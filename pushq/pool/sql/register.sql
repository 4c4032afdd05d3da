-- Registers the tasks $2, which need $4 (each an object as text, or null), and the queues $3 of the pools of supervisor $1. Names
-- are locked in order, so that two supervisors that start together cannot deadlock.
with known as (
    insert into pushq.tasks as task (name, needs)
    select name, needs::jsonb from unnest($2::text[], $4::text[]) as given (name, needs) order by name
    on conflict (name) do update set needs = excluded.needs where task.needs is distinct from excluded.needs
),
served as (
    insert into pushq.queues as queue (name, served_since)
    select name, now() from unnest($3::text[]) as name order by name
    on conflict (name) do update set served_since = excluded.served_since where queue.served_since is null
)
update pushq.supervisors
set tasks = array(select distinct unnest(tasks || $2::text[]) order by 1),
    queues = array(select distinct unnest(queues || $3::text[]) order by 1)
where name = $1
