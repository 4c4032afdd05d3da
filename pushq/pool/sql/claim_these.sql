-- Takes those of the jobs $1 that are queued, for pool $3 of supervisor $2, under the token $4: for when a claim was undone, to
-- find out for which job. Without any job ($1 is empty) the statement is carried out for no row, to find out whether claims are
-- undone whatever the job.
select *
from pushq.claim_locked(
    case when cardinality($1::uuid[]) > 0 then array(
        select job.id
        from pushq.jobs_unfinished as job
        where job.id = any($1) and job.status = 'queued'
        and exists (select from pushq.supervisors where name = $2::text and lease_until > now())
        order by job.id
        for no key update skip locked)
    end,
    $2, $3::int, $4::uuid)
