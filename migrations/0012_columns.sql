-- The columns for what happened to jobs, and for what running jobs tell. In a migration of their own, since the tables are locked
-- until the migration commits.

insert into pushq.migrations (version, name) values (12, '0012_columns');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 12;

alter table pushq.queues add column all_events boolean not null default false;
comment on column pushq.queues.all_events is 'Whether every transition of its jobs is kept as an event.';
-- Empty unless used, so that claims pay next to nothing.
-- squawk-ignore require-concurrent-index-creation
create index queues_with_all_events on pushq.queues (name) where all_events;

alter table pushq.jobs add column progress jsonb;
comment on column pushq.jobs.progress is
    'What the handler last told: {"done", "total", "message", "phase", "checkpoint"}, each only if told. Null: nothing.';
