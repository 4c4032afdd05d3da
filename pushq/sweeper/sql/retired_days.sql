-- The emptied days whose partitions this role may drop. step: detach first; finalize a detach that was cut off; drop.
select
    days.day,
    to_char(days.day, '"jobs_"YYYY_MM_DD') as partition,
    case when parent.inhrelid is null then 'drop' when parent.inhdetachpending then 'finalize' else 'detach' end as step
from pushq.days
join pg_catalog.pg_class as class
    on class.relnamespace = 'pushq'::regnamespace and class.relname = to_char(days.day, '"jobs_"YYYY_MM_DD')
left join pg_catalog.pg_inherits as parent on parent.inhrelid = class.oid
where days.retired_at is not null and pg_catalog.pg_has_role(class.relowner, 'usage')
order by days.day
