-- The payload of the running job $1, if it is still held under the token $2: for one that was too large to come with its
-- claim. Null where its text is over 64 MiB: of 1 MiB as it is stored, some numbers have a hundred times the digits.
select case when octet_length(payload::text) <= 67108864 then payload::text end as payload
from pushq.jobs_unfinished
where id = $1 and token = $2
