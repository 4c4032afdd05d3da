-- Writes the progress $3 of the jobs $1, each only if still held under its token in $2, and the changes of phase $6 of the jobs $4
-- under the tokens $5, in order. Returns the places in $1, from 1, of the jobs that are still held.
with written as (
    update pushq.jobs_unfinished as job
    set progress = ($3::text[])[array_position($1::uuid[], job.id)]::jsonb
    where job.id = any($1) and job.token = ($2::uuid[])[array_position($1, job.id)]
    returning array_position($1, job.id) as place
)
select
    coalesce(array_agg(written.place), '{}') as held,
    case when cardinality($4::uuid[]) > 0 then pushq.note_phases($4, $5::uuid[], $6::text[]) end
from written
