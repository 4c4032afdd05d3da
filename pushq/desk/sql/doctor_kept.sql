-- The days with a trigger of the user's own before each delete, and with a job that a queue's keep has been over for since two hours
-- and more: the purge comes by once an hour at least. $1: of each such day, so many jobs are looked at, the first in the table, where those
-- lie that stay. Without such a trigger, nothing is read but the catalog.
with guarded as materialized (
    select
        to_date(day.relname, '"jobs_"YYYY_MM_DD') as day,
        array_agg(its.tgname::text order by its.tgname) as triggers
    from pg_inherits
    join pg_class as day on day.oid = inhrelid and day.relname ~ '^jobs_\d{4}_\d\d_\d\d$'
    join pg_trigger as its on its.tgrelid = day.oid
    join pg_proc as function on function.oid = its.tgfoid
    where inhparent = 'pushq.jobs'::regclass
    and not its.tgisinternal
    and its.tgenabled in ('O', 'A')
    and its.tgtype & 11 = 11  -- for each row, before, delete
    and function.pronamespace <> 'pushq'::regnamespace
    group by day.relname
),
rule as materialized (
    select * from pushq.cutoffs(false) where exists (select from guarded)
)
select guarded.day::text, guarded.triggers
from guarded
where exists (
    select
    from (select queue, status, finished_at from pushq.jobs where finished_on = guarded.day limit $1) as job
    left join rule on rule.queue = job.queue
    where job.finished_at < coalesce(
        case job.status when 'failed' then rule.failed else rule.others end,
        (select case job.status when 'failed' then failed else others end from rule where queue = '*')) - interval '2 hours'
)
order by guarded.day
