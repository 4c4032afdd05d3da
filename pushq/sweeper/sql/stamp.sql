-- Gives jobs the needs that rules say: looks at up to $2 unfinished jobs after the id $1, or from the first. Returns how many were
-- changed, and the id after which to go on, or null.
select stamped, last from pushq.stamp($1::uuid, $2)
