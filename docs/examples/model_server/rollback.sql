-- The way back: the old tables jobs and artifacts, with every row of the views, and nothing of these jobs in pushq.jobs. Run as the
-- owner, while no supervisor serves the queue foreman. May be run again.
--
-- What had begun is queued. Webhooks that wait to be delivered are delivered.

begin;
set local lock_timeout = '5s';
set local client_min_messages = notice;

do $$
declare
    one record;
    copies text[] := '{}';
    returned bigint := 0;
    more bigint;
    ids uuid[];
begin
    if to_regclass('public.foreman_artifacts') is null then
        raise notice 'the views jobs and artifacts are not there: nothing is to be done';
        return;
    end if;
    -- The app's statements wait here, and go on with the tables.
    alter view public.jobs rename to jobs_upon_pushq;
    alter view public.artifacts rename to artifacts_upon_pushq;
    if to_regclass('public.jobs_before_pushq') is null then
        create table public.jobs_before_pushq (
            id text primary key,
            model text not null,
            payload jsonb,
            state text not null default 'queued',
            result jsonb,
            error text,
            attempt integer not null default 0,
            max_attempts integer not null default 0,
            state_webhook_url text,
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now(),
            started_at timestamptz,
            completed_at timestamptz
        );
        create index idx_jobs_state on public.jobs_before_pushq (state, created_at);
    end if;
    if to_regclass('public.artifacts_before_pushq') is null then
        create table public.artifacts_before_pushq (
            id bigint generated always as identity primary key,
            job_id text not null,
            name text not null,
            content_type text not null,
            data bytea not null,
            size bigint not null,
            created_at timestamptz not null default now(),
            unique (job_id, name)
        );
    end if;
    -- A table that was there keeps its types: JSON as text or as bytes, say.
    for one in select * from (values ('jobs', 'id', ''), ('artifacts', 'job_id', 'id')) as its (name, key, made) loop
        copies := copies || (
            select format(
                'insert into public.%I (%s) select %s from public.%I as its where public.foreman_uuid(its.%I) = any($1)',
                one.name || '_before_pushq', string_agg(quote_ident(old.attname), ', ' order by old.attnum),
                string_agg(
                    format(
                        case
                            when new.atttypid = old.atttypid then 'its.%1$I'
                            when old.atttypid = 'bytea'::regtype then 'convert_to(its.%1$I::text, ''utf8'')'
                            else 'its.%1$I::text::%2$s'
                        end, old.attname, format_type(old.atttypid, old.atttypmod)), ', ' order by old.attnum),
                one.name || '_upon_pushq', one.key)
            from pg_attribute as old
            join pg_attribute as new on new.attname = old.attname and new.attrelid = to_regclass('public.' || one.name || '_upon_pushq')
            where old.attrelid = to_regclass('public.' || one.name || '_before_pushq') and old.attnum > 0 and old.attname <> one.made);
    end loop;

    -- In rounds: a job that finishes meanwhile moves to another place.
    for _ in 1..100 loop
        ids := array(select job.id from pushq.jobs as job where job.queue = 'foreman' order by job.id for update);
        exit when cardinality(ids) = 0;
        delete from public.jobs_before_pushq as old
        where exists (select from public.jobs_upon_pushq as job where job.id = old.id::text);
        execute copies[1] using ids;
        execute copies[2] using ids;
        perform pushq.recall(job.id, job.token) from pushq.jobs_unfinished as job where job.id = any(ids) and job.status = 'running';
        perform public.foreman_forget_artifacts(ids);
        delete from pushq.jobs as job where job.id = any(ids) and job.queue = 'foreman' and job.task = 'foreman.chat';
        get diagnostics more = row_count;
        returned := returned + more;
        delete from pushq.jobs as job where job.id = any(ids) and job.queue = 'foreman';
    end loop;

    update public.jobs_before_pushq set state = 'queued' where state in ('loading', 'working');

    drop view public.artifacts_upon_pushq, public.jobs_upon_pushq;
    drop trigger foreman_tell_event on pushq.job_events;
    drop function
        public.foreman_jobs_write(), public.foreman_artifacts_write(), public.foreman_tell_event(),
        public.foreman_tell(uuid, bigint, text, timestamptz, text), public.foreman_expire(float8),
        public.foreman_forget_artifacts(uuid[]), public.foreman_uuid(text);
    drop table public.foreman_artifacts;
    drop index pushq.foreman_by_id, pushq.foreman_by_state;
    alter table public.jobs_before_pushq rename to jobs;
    alter table public.artifacts_before_pushq rename to artifacts;
    perform pushq.keep_all_events('foreman', false), pushq.set_turn('foreman', '50 ms');
    if session_user = 'pushq' then
        execute format('alter role pushq in database %I reset search_path', current_database());
    end if;
    raise notice '% jobs are back', returned;
end
$$;

commit;
