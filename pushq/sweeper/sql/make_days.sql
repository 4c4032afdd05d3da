-- Makes the missing partitions of today and the next three days, and adds them to pushq.days. Returns the days made.
select day from pushq.make_days() as day order by day
