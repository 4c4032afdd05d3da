-- Columns and triggers for what happened to jobs, and for what running jobs tell. In a migration of their own, since the tables are
-- locked until the migration commits. The triggers do nothing before the next migration, which writes their functions.

insert into pushq.migrations (version, name) values (12, '0012_places');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 12;

alter table pushq.queues add column all_events boolean not null default false;
comment on column pushq.queues.all_events is 'Whether every transition of its jobs is kept as an event.';
-- Empty unless used, so that claims pay next to nothing.
-- squawk-ignore require-concurrent-index-creation
create index queues_with_all_events on pushq.queues (name) where all_events;

alter table pushq.jobs add column progress jsonb;
comment on column pushq.jobs.progress is
    'What the handler last told: {"done", "total", "message", "phase", "checkpoint"}, each only if told. Null: nothing.';

create function pushq.note_edits() returns trigger language plpgsql as $$ begin return null; end $$;

-- A session that sets pushq.events = 'off' is not noted: the events are a record for the honest.
create trigger jobs_note_updates
after update on pushq.jobs
referencing old table as was new table as became
for each statement
when (current_setting('pushq.events', true) is distinct from 'off')
execute function pushq.note_edits();

create trigger jobs_note_deletes
after delete on pushq.jobs
referencing old table as was
for each statement
when (current_setting('pushq.events', true) is distinct from 'off')
execute function pushq.note_edits();

create function pushq.make_event_days_too() returns trigger language plpgsql as $$ begin return null; end $$;

create trigger days_make_event_days
after insert on pushq.days
for each statement execute function pushq.make_event_days_too();
