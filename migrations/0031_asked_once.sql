-- A job in a lane that falls due while a pool asks what is next is told.
--
-- Theory of operation. pushq.next_due_in_lanes() looks for jobs that could begin, and then for the first that is due later. With a clock of its
-- own for each, a job that fell due in between was in neither, and the pool slept on. Now later means: after the question.

insert into pushq.migrations (version, name) values (31, '0031_asked_once');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 31;

do $$
begin
    execute replace(
        pg_get_functiondef('pushq.next_due_in_lanes(text[], text[])'::regprocedure),
        'and job.run_at > clock_timestamp()', 'and job.run_at > asked_at');
end
$$;
