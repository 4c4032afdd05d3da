-- Takes the most urgent due job that has killed two processes, of the queues $1 and the tasks $2, for pool $4 of supervisor $3,
-- under the token $5, but for the jobs $6. The pool runs nothing beside the job: a third death is charged to nobody else.
select *
from pushq.hand_out(
    case when exists (select from pushq.supervisors where name = $3::text and lease_until > now()) then
        pushq.as_wanted(
            pushq.lock_fitting(pushq.due_suspects($1::text[], $2::text[], $6::uuid[]), 1, 1), $1::text[], $2::text[],
            clock_timestamp(), '{solo}')
    else '{}' end,
    $3, $4::int, $5::uuid, array(select queue from pushq.noted_queues))
