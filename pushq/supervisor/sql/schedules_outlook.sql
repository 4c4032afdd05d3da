-- What schedules are about to ask for. $1: an instant before which no slot is due, or null. Under a pinned xmin horizon, the index keeps
-- the entry of each slot that was kept, and a look from the beginning would pass all of them. first_at: the first slot, or when a refused
-- one is tried again; due_in: seconds until then. any_to_compute: whether a next slot is to be computed. are_any: whether there is a
-- schedule, which is only looked for if nothing else has told so. now: by the database's clock.
select
    first.at as first_at,
    extract(epoch from first.at - clock_timestamp())::float8 as due_in,
    first.any_to_compute,
    case when first.at is not null or first.any_to_compute then true else exists (select from pushq.schedules) end as are_any,
    clock_timestamp() as now
from (
    select
        (
            select coalesce(retry_at, next_at)
            from pushq.schedules
            where paused_at is null and next_at is not null
            and coalesce(retry_at, next_at) >= coalesce($1::timestamptz, '-infinity')
            order by coalesce(retry_at, next_at)
            limit 1
        ) as at,
        exists (select from pushq.schedules where paused_at is null and next_at is null and error is null) as any_to_compute
    offset 0
) as first
