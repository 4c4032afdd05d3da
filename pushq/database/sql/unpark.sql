-- Lets claims find up to 10,000 parked jobs whose task some supervisor knows now, and rings for their queues. Returns how
-- many.
with unparked as (
    update pushq.jobs_unfinished
    set parked = false
    where id = any(array(
        select id
        from pushq.jobs_unfinished
        where parked and task = any(array(select unnest(tasks) from pushq.supervisors))
        limit 10000
        for no key update skip locked))
    returning queue
),
rung as (
    select pushq.ring_if_idle(queue)
    from (select distinct queue from unparked) as queue
)
select count(*)::int as jobs
from unparked
cross join (select count(*) from rung) as ringing
