-- The unfinished jobs by queue and status, as last counted. age: of the oldest due job, in seconds.
select queue, status, jobs, greatest(extract(epoch from now() - oldest_due_at), 0)::float8 as age
from pushq.census
