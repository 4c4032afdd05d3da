-- Which of the ids $1 are deliveries of webhooks. Where jobs share an id, the newest counts, as for pushq.retry().
select asked.id
from unnest($1::uuid[]) as asked (id)
cross join lateral (
    select job.queue
    from pushq.jobs as job
    where job.id = asked.id
    order by job.finished_on desc, job.finished_at desc
    limit 1
) as newest
where newest.queue = 'pushq.webhooks'
