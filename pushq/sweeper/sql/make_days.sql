-- Makes the missing partitions of today and the next three days, and adds them to pushq.days. Returns the days made. Also makes
-- missing partitions of events and artifacts, which somebody may have dropped.
with made as materialized (
    select day from pushq.make_days() as day
),
mended as materialized (
    select pushq.make_event_days(), pushq.make_artifact_days()
)
select day from made where (select count(*) from mended) > 0 order by day
