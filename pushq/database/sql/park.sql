-- Parks up to 10,000 queued jobs whose task no supervisor knows now, so that claims need not pass them: the first in line
-- first. Returns how many.
with known as materialized (
    select unnest(tasks) as task from pushq.supervisors
),
parked as (
    update pushq.jobs_unfinished
    set parked = true
    where id = any(array(
        select id
        from pushq.jobs_unfinished
        where status = 'queued' and crashes < 2 and not parked
        and exists (select from known)
        and task <> all(array(select task from known))
        order by queue, priority, run_at, id
        limit 10000
        for no key update skip locked))
    returning 1
)
select count(*)::int as jobs from parked
