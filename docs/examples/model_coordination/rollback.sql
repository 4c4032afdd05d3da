-- The way back: the views go, and the tables that schema.sql has renamed have their names again. Run as the owner. May be run again.
--
-- Jobs stay in pushq.jobs: those that wait run on while a supervisor serves the queue `models`. README.md has the statements that take
-- them along.

begin;
set local lock_timeout = '5s';
set local client_min_messages = notice;

do $$
declare
    old_name text;
    left_over bigint;
begin
    if (select relkind from pg_class where oid = to_regclass('public.jobs')) is distinct from 'v' then
        raise notice 'jobs is no view: nothing is to be done';
        return;
    end if;
    drop view public.job_queue_log, public.job_queue_state, public.workflow_executions, public.jobs, public.model_holders;
    drop function public.jobs_write();
    drop index pushq.coordination_line, pushq.coordination_by_status, pushq.coordination_by_id;
    foreach old_name in array '{jobs,workflow_executions,job_queue_state,job_queue_log}'::text[] loop
        execute format('alter table if exists public.%I rename to %I', old_name || '_before_pushq', old_name);
    end loop;
    perform pushq.keep_all_events('models', false);
    if session_user = 'pushq' then
        execute format('alter role pushq in database %I reset search_path', current_database());
    end if;
    select count(*) into left_over from pushq.jobs_unfinished where queue = 'models';
    if left_over > 0 then
        raise notice '% unfinished jobs of the queue models stay in pushq.jobs', left_over;
    end if;
end
$$;

commit;
