-- One step of the purge of day $1: at most $3 blocks of its table, and at most $4 jobs. $2: seconds for which jobs are kept by default.
-- Commits without a wait for the disk: a step that a crash undoes is made again.
select step.purged, step.is_over, step.milliseconds, step.trouble
from pushq.purge_day($1, $2::float8 * interval '1 second', $3, $4) as step
cross join set_config('synchronous_commit', 'off', true)
