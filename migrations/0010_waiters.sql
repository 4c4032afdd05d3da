-- The column for whoever waits for a job. In a migration of its own, since the table is locked until the migration commits.

insert into pushq.migrations (version, name) values (10, '0010_waiters');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 10;

alter table pushq.jobs add column waiters text[];
comment on column pushq.jobs.waiters is
    'Channels to notify when the job ends, pushq_ and up to 57 of a-z, 0-9, _; null in a finished job.';
