-- The switch of a queue by which all its jobs' transitions are kept as events. In a migration of its own, since claims read the
-- table, which is locked until the migration commits.

insert into pushq.migrations (version, name) values (12, '0012_all_events');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 12;

alter table pushq.queues add column all_events boolean not null default false;
-- Empty unless used, so that claims pay next to nothing.
-- squawk-ignore require-concurrent-index-creation
create index queues_with_all_events on pushq.queues (name) where all_events;
