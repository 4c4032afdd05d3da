-- As finish_noting.sql, if any job of the batch has a lane: the next of the lanes start in the places of the jobs. $13 and $14: queues
-- and lanes of the jobs, each lane null if it must let go. $15: which turns are over. $16: tasks that may follow, sorted by their bytes. For
-- pool $17 of supervisor $12, under the token $18. Returns the jobs that follow, one a row, or one row whose id is null.
select ended.places, ended.told, following.*
from (
    select
        places, told,
        case when true = any($9::boolean[]) then pushq.note_changes(places, $9, $1, $10, $11, null, $5, null, $6, $7, $12) end
    from pushq.end_sorted($1::uuid[], $2::uuid[], $3::float8[], $4::float8[], $5::text[], $6::text[], $7::text[], $8::text[])
    offset 0
) as ended
left join lateral pushq.follow(
    ended.places, $13::text[], $14::text[], $15::boolean[], $16::text[], $12, $17::int, $18::uuid,
    array(select queue from pushq.noted_queues)
) as following on true
