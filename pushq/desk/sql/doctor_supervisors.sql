-- alive: how many supervisors are, guests included. waiting: whether a job of priority 0 has been due for 10 seconds. dead: supervisors whose
-- leases ran out more than a minute ago and that still have jobs. paused: the queues that are paused.
select
    (select count(*) from pushq.supervisors where lease_until > now()) as alive,
    exists (
        select from pushq.jobs_unfinished
        where status = 'queued' and apart is null and priority = 0 and run_at <= now() - interval '10 seconds'
    ) as waiting,
    array(
        select distinct job.supervisor
        from pushq.jobs_unfinished as job
        left join pushq.supervisors as supervisor on supervisor.name = job.supervisor
        where job.status = 'running' and (supervisor.name is null or supervisor.lease_until < now() - interval '1 minute')
        order by 1
        limit 5
    ) as dead,
    array(select name from pushq.queues where paused_at is not null order by name limit 5) as paused
