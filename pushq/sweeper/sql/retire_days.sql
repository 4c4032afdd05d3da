-- Empties the days whose rows are all older than $1 seconds, and the days of events before the oldest day of jobs. Returns the days
-- of jobs; trouble: why a day could not be emptied.
select day, trouble from pushq.retire_days($1::float8 * interval '1 second')
union all
select day, trouble from pushq.retire_event_days()
