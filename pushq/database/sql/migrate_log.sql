-- Restores the lost row of the applied migration with version $1 and name $2.
insert into pushq.migrations (version, name) values ($1, $2)
on conflict do nothing
