-- Moves the schedules $1 on from the slots $2, if their crons $3, zones $4 and intervals $5 are as they were, to the slots $6, or, for the
-- reasons $7, to none; and inserts the jobs of the slots $9, each of the schedule in place $8 of $1. Returns how many were moved.
select pushq.keep_schedules(
    $1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::interval[], $6::timestamptz[], $7::text[], $8::int[], $9::timestamptz[]
) as kept
