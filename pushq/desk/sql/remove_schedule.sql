-- Deletes the schedule named $1 of tenant $2, or of nobody if null.
delete from pushq.schedules where name = $1 and tenant_id is not distinct from $2 returning id
