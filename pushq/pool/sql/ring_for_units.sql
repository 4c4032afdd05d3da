-- Rings for jobs with needs, if any wait: units have been given back, and this pool has not taken them.
select pushq.ring_for_units()
