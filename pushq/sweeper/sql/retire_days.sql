-- Empties the days whose rows are all older than $1 seconds. Returns them, and those that could not be, with the trouble.
select day, trouble from pushq.retire_days($1::float8 * interval '1 second')
