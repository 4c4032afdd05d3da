-- The events of the transactions from $1 on (null: of those that are open now) of the kinds $2 and the tenant $3, written since $4
-- (null: ever), as in list_events.sql, the oldest first; and mark, from where the next look goes on. The look before may have seen
-- some of them: leave those out by id. Without an event, one row with the mark alone.
--
-- No event is missed: mark is the oldest transaction that was open, and all older ones were seen to their end. Events that came with
-- a restore have the numbers of another server: an instant bounds the look.
with this_look as materialized (
    select
        pg_snapshot_xmin(pg_current_snapshot())::text::bigint as mark,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint as newest
)
select
    this_look.mark, event.id, event.job_id, job.task, job.queue, event.kind, event.was, event.became, event.attempt, event.at,
    event.actor, event.error, event.traceback, event.detail::text as detail, event.tenant_id
from this_look
left join pushq.job_events as event
    on event.tx >= coalesce($1::bigint, this_look.mark) and event.tx < this_look.newest
    and ($2::text[] is null or event.kind = any($2)) and ($3::text is null or event.tenant_id = $3)
    and ($4::timestamptz is null or event.at >= $4)
left join lateral (
    select found.task, found.queue from pushq.jobs as found where found.id = event.job_id order by found.finished_on desc limit 1
) as job on true
order by event.id
