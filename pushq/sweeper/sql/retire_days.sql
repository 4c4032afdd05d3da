-- Empties the days whose rows are all older than $1 seconds. Returns those days; trouble: why a day could not be emptied.
select day, trouble from pushq.retire_days($1::float8 * interval '1 second')
