-- Moves the rows of jobs_before_pushq and artifacts_before_pushq into pushq, whatever their state. Run this after schema.sql, as the owner,
-- while the old app does not run. May be run again, and then moves what is left.
--
-- What was being worked on is queued: nobody works on it any more. Finished rows keep their own times, and go to the day that takes
-- finished jobs now. JSON may stand in columns of text, bytes, json or jsonb. A job moves with its artifacts or not at all: what
-- pushq refuses (no JSON, over 1 MiB, an id that is taken) stays.

begin;
set local client_min_messages = notice;

do $$
declare
    as_json text;
    has_artifacts boolean := to_regclass('public.artifacts_before_pushq') is not null;
    one record;
    jobs bigint := 0;
    artifacts bigint := 0;
    more bigint;
    jobs_left bigint;
    artifacts_left bigint := 0;
begin
    if to_regclass('public.jobs_before_pushq') is null then
        raise notice 'there is no jobs_before_pushq: nothing to move';
        return;
    end if;
    lock table public.jobs_before_pushq in access exclusive mode;
    select case atttypid when 'bytea'::regtype then 'convert_from(%s, ''utf8'')::jsonb' else '%s::text::jsonb' end into as_json
    from pg_attribute where attrelid = 'public.jobs_before_pushq'::regclass and attname = 'payload';

    for one in select id::text as id from public.jobs_before_pushq order by created_at loop
        begin
            execute format(
                'insert into public.jobs (id, model, payload, state, result, error, attempt, max_attempts, state_webhook_url, '
                'created_at, updated_at, started_at, completed_at) '
                'select id::text, model, %s, state, %s, error, attempt, max_attempts, state_webhook_url, created_at::timestamptz, '
                'updated_at::timestamptz, started_at::timestamptz, completed_at::timestamptz '
                'from public.jobs_before_pushq where id::text = $1',
                format(as_json, 'payload'), format(as_json, 'result')) using one.id;
            more := 0;
            if has_artifacts then
                insert into public.artifacts (job_id, name, content_type, data, created_at)
                select job_id::text, name, content_type, data, created_at::timestamptz
                from public.artifacts_before_pushq where job_id::text = one.id;
                delete from public.artifacts_before_pushq where job_id::text = one.id;
                get diagnostics more = row_count;
            end if;
            delete from public.jobs_before_pushq where id::text = one.id;
            jobs := jobs + 1;
            artifacts := artifacts + more;
        exception
            when data_exception or integrity_constraint_violation then
                raise notice 'job % stays: %', left(one.id, 200), sqlerrm;
        end;
    end loop;

    select count(*) into jobs_left from public.jobs_before_pushq;
    if has_artifacts then
        select count(*) into artifacts_left from public.artifacts_before_pushq;
    end if;
    raise notice '% jobs and % artifacts have moved', jobs, artifacts;
    if jobs_left + artifacts_left > 0 then
        raise warning '% jobs and % artifacts stay in the old tables; the notices say why', jobs_left, artifacts_left;
    end if;
end
$$;

commit;
