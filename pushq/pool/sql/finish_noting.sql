-- As finish.sql, and writes the events of the jobs marked in $9, by supervisor $12. $10 and $11: tenants and attempts of the
-- jobs. pushq.note_changes() explains.
select
    ended.places, ended.told,
    pg_sequence_last_value('pushq.needs_stamped') > 0 and exists (
        select from pushq.jobs_unfinished where id = any($1) and status = 'running' and needs is not null) as gave_units,
    pushq.note_changes(ended.places, $9, $1, $10, $11, null, $5, null, $6, $7, $12)
from pushq.end_sorted($1::uuid[], $2::uuid[], $3::float8[], $4::float8[], $5::text[], $6::text[], $7::text[], $8::text[]) as ended
