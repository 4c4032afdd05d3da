-- The payload of the running job $1, if it is still held under the token $2: for one that was too large to come with its
-- claim. Null where its numbers have too many digits.
select case when payload_is_too_long is null then payload::text end as payload
from pushq.jobs_unfinished
where id = $1 and token = $2
