-- The triggers that note changes by hand. In a migration of their own, since INSERTs wait until the migration commits. A session
-- that sets pushq.events = 'off' is not noted: the events are a record for the honest.

insert into pushq.migrations (version, name) values (14, '0014_hand_edits');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 14;

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
