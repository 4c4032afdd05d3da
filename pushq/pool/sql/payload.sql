-- The payload of the running job $1, if still held under the token $2: a payload too large to come with the claim. Null if
-- its numbers have too many digits.
select case when payload_is_too_long is null then payload::text end as payload
from pushq.jobs_unfinished
where id = $1 and token = $2
