-- What a pool that found nothing waits for: in how many seconds the next job of the queues $1 and the tasks $2 (sorted by their
-- bytes) is due (null: none is queued; negative: it became due just now), and whether the lease of supervisor $3 is live. What
-- has been due for longer than $4 seconds (null: forever) is not looked at.
select
    extract(epoch from
        pushq.next_due(
            $1::text[], $2::text[], coalesce(now() - $4::float8 * interval '1 second', '-infinity'))
        - now())::float8 as due_in,
    exists (select from pushq.supervisors where name = $3 and lease_until > now()) as lease_is_live
