-- The rows $1 that other sessions have locked.
with free as materialized (
    select id
    from pushq.jobs_unfinished
    where id = any($1::uuid[])
    for update skip locked
)
select id
from pushq.jobs_unfinished
where id = any($1::uuid[]) and id not in (select id from free)
