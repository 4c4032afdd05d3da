-- Empties the days of artifacts into which no artifact points any more. Returns days that cannot be emptied, with the trouble.
select day, trouble from pushq.retire_artifact_days()
