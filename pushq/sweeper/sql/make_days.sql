-- Makes the partitions of today and the next days that are missing, and notes those that are not noted.
select day from pushq.make_days() as day
