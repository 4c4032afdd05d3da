-- The emptied partitions that this role may drop, of jobs, events and artifacts. step: detach first; finalize a detach that was cut off;
-- drop.
with emptied as (
    select 'jobs' as parent, day, to_char(day, '"jobs_"YYYY_MM_DD') as partition
    from pushq.days
    where retired_at is not null
    union
    select 'job_events', day, to_char(day, '"job_events_"YYYY_MM_DD')
    from pushq.days
    where retired_at is not null
    union
    select 'job_events', day, partition from pushq.outlived_event_days()
    union
    select 'artifact_pieces', day, partition from pushq.spent_artifact_days() where outlived
)
select
    emptied.day, emptied.parent, emptied.partition,
    case when parent.inhrelid is null then 'drop' when parent.inhdetachpending then 'finalize' else 'detach' end as step
from emptied
join pg_catalog.pg_class as class on class.relnamespace = 'pushq'::regnamespace and class.relname = emptied.partition
left join pg_catalog.pg_inherits as parent on parent.inhrelid = class.oid
where pg_catalog.pg_has_role(class.relowner, 'usage')
order by emptied.day, emptied.parent
