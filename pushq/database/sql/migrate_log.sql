-- Notes again that the migration with version $1 and name $2 was applied: its row is lost.
insert into pushq.migrations (version, name) values ($1, $2)
on conflict do nothing
