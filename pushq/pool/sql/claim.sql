-- Takes up to $6 due jobs of the queues $1 (in their order, within a priority) and the tasks $2 (sorted by their bytes), the
-- most urgent first, for pool $4 of supervisor $3, under the token $5. Jobs that fell due longer than $7 seconds ago (null:
-- ever) or less than $8 seconds ago (null: 0) are left out: pushq/pool/lookback.py says why. Of jobs with needs, at most $9 are
-- taken, before equally urgent jobs if $10. $11 names what the free workers are ready for. $12, $13: where the round of each fair queue
-- stands, see pushq/pool/shares.py.
select *
from pushq.hand_out(
    pushq.lock_claimable(
        $1::text[], $2::text[], $3::text, $6::int, coalesce(now() - $7::float8 * interval '1 second', '-infinity'),
        now() - coalesce($8::float8, 0) * interval '1 second', $9::int, $10::boolean, $11::text[], $12::text[], $13::int[]),
    $3, $4::int, $5::uuid, array(select queue from pushq.noted_queues))
