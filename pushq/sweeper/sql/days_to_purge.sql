-- The days in which jobs may have outlived what a queue's keep says, the newest first. $1: seconds for which jobs are kept by default.
select day from pushq.days_to_purge($1::float8 * interval '1 second') as day
