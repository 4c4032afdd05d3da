-- As detach.sql, and writes the events of the jobs marked in $4, by supervisor $7. $5 and $6: tenants and attempts of the jobs.
-- pushq.note_changes() explains.
select
    places,
    pushq.note_changes(
        places, $4, $1, $5, $6, null, array_fill('detached'::text, array[cardinality($1)]), null, null, null, $7)
from pushq.detach($1::uuid[], $2::uuid[], $3::float8[]) as places
