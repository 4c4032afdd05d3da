-- The newest $4 events of the kinds $2 (null: of any) and the tenant $3 (null: of any), the newest first, among those of the
-- newest $1 transactions (null: among all). task and queue: the job's, if it is still there.
with newest as materialized (
    select *
    from pushq.job_events
    where ($1::bigint is null or tx >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint - $1)
    and ($2::text[] is null or kind = any($2)) and ($3::text is null or tenant_id = $3)
    order by id desc
    limit $4
)
select
    event.id, event.job_id, job.task, job.queue, event.kind, event.was, event.became, event.attempt, event.at, event.actor,
    event.error, event.traceback, event.detail::text as detail, event.tenant_id
from newest as event
left join lateral (
    select found.task, found.queue from pushq.jobs as found where found.id = event.job_id order by found.finished_on desc limit 1
) as job on true
order by event.id desc
