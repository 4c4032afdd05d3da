-- A trigger that notices which queues keep all events. In a migration of its own, since the table of queues is locked until the
-- migration commits. The trigger does nothing before the next migration, which writes its function.

insert into pushq.migrations (version, name) values (21, '0021_noted');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 21;

create function pushq.copy_noted_queues() returns trigger language plpgsql as $$ begin return null; end $$;

create trigger queues_copy_noted_queues
after insert or delete or update of name, all_events on pushq.queues
for each statement execute function pushq.copy_noted_queues();

-- Not used since 0018_keep.
-- squawk-ignore ban-drop-column
alter table pushq.days drop column purged_to;
