-- The unfinished jobs, as last counted. age is in seconds.
select queue, status, jobs, greatest(extract(epoch from now() - oldest_due_at), 0)::float8 as age
from pushq.census
