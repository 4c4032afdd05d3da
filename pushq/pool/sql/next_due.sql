-- A pool's prospects when a claim found nothing: in how many seconds the next job of the queues $1 and the tasks $2 (sorted
-- by their bytes) is due (null: none is queued; negative: due since then), and whether the lease of supervisor $3 is live.
-- Jobs that fell due more than $4 seconds ago (null: ever) are left out.
select
    extract(epoch from
        pushq.next_due_of_all(
            $1::text[], $2::text[], coalesce(now() - $4::float8 * interval '1 second', '-infinity'))
        - now())::float8 as due_in,
    exists (select from pushq.supervisors where name = $3 and lease_until > now()) as lease_is_live
