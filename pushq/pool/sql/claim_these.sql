-- Takes the queued ones of the jobs $1, for pool $3 of supervisor $2, under the token $4: after a claim that was rolled
-- back, to find the job at fault. For no job ($1 is empty) the statement is carried out for no row, and is rolled back if
-- claims are rolled back for any job.
select *
from pushq.hand_out(
    case when cardinality($1::uuid[]) > 0 then pushq.lock_fitting(
        array(
            select job.id
            from pushq.jobs_unfinished as job
            where job.id = any($1) and job.status = 'queued'
            and exists (select from pushq.supervisors where name = $2::text and lease_until > now())
            order by job.id),
        cardinality($1), cardinality($1))
    end,
    $2, $3::int, $4::uuid, array(select queue from pushq.noted_queues))
