-- Takes the most urgent due job that has killed two processes, of the queues $1 and the tasks $2, for pool $4 of supervisor $3,
-- under the token $5, but for the jobs $6. The pool runs nothing beside the job: a third death is charged to nobody else.
select *
from pushq.hand_out(
    pushq.lock_fitting(array(
        select job.id
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart = 'solo' and job.queue in (select name from pushq.open_queues($1::text[]))
        and job.run_at <= now() and job.task = any($2::text[]) and job.id <> all($6::uuid[])
        and exists (select from pushq.supervisors where name = $3::text and lease_until > now())
        order by job.priority, job.run_at, job.id
        limit 20), 1, 1),
    $3, $4::int, $5::uuid, array(select queue from pushq.noted_queues))
