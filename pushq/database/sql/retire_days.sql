-- Empties the days whose rows are all older than $1 seconds.
select day from pushq.retire_days($1::float8 * interval '1 second') as day
