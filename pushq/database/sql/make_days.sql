-- Makes the partitions of today and the next days that are missing.
select day from pushq.make_days() as day
