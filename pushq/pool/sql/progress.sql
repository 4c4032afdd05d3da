-- Writes the progress $3 of the jobs $1, each only if still held under its token in $2, and the changes of phase $6 of the jobs $4
-- under the tokens $5, in order. Returns the places in $1, from 1, of the jobs that are still held.
with given as (
    select told.id, told.token, told.progress, told.place
    from unnest($1::uuid[], $2::uuid[], $3::text[]) with ordinality as told (id, token, progress, place)
    order by told.id
),
written as (
    update pushq.jobs_unfinished as job
    set progress = given.progress::jsonb
    from given
    where job.id = given.id and job.token = given.token
    returning given.place::int
)
select
    coalesce(array_agg(written.place), '{}') as held,
    case when cardinality($4::uuid[]) > 0 then pushq.note_phases($4, $5::uuid[], $6::text[]) end
from written
