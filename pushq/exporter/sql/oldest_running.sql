-- How long the oldest running job of each queue and task has run, in seconds, as of the last census.
select queue, task, greatest(extract(epoch from now() - oldest_started_at), 0)::float8 as age
from pushq.census_running
order by queue, task
