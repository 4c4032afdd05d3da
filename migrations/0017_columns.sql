-- Columns for webhooks, traces and retention. In a migration of their own, since the tables are locked until the migration commits.

insert into pushq.migrations (version, name) values (17, '0017_columns');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 17;

alter table pushq.jobs add column webhook_url text, add column traceparent text;
comment on column pushq.jobs.webhook_url is 'The URL that is told the end of the job.';
comment on column pushq.jobs.traceparent is 'The producer''s place in a trace: the header traceparent of W3C Trace Context.';

alter table pushq.queues
    add column keep interval constraint queues_keep_is_not_negative check (keep >= interval '0'),
    add column keep_failed interval constraint queues_keep_failed_is_not_negative check (keep_failed >= interval '0');
comment on column pushq.queues.keep is 'How long its finished jobs are kept. Null: as PUSHQ_RETENTION.';
comment on column pushq.queues.keep_failed is 'The same for its failed jobs. Null: as keep.';

alter table pushq.days add column purged_to bigint not null default 0;
comment on column pushq.days.purged_to is 'The block of the day''s table at which the next step of the purge begins.';


-- Rules ----------------------------------------------------------------------------------------------------------

-- An http or https URL of ASCII characters, without a login, a fragment, or anything that readers of URLs take for different hosts.
create function pushq.is_webhook_url(url text) returns boolean
language sql immutable parallel safe
return length(url) <= 2000 and url ~* '^https?://[a-z0-9._:\[\]-]+([/?][!-\[\]-~]*)?$' and url !~ '#';

-- As https://www.w3.org/TR/trace-context/#traceparent-header says: ids are not zero, version ff is forbidden, and only versions
-- after 00 may have more fields.
create function pushq.is_traceparent(header text) returns boolean
language sql immutable parallel safe
return length(header) <= 200
    and header ~ '^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?$'
    and (header !~ '^00' or length(header) = 55);

-- As pushq.broken_rule(), for columns that most jobs leave null.
create function pushq.broken_rule_of_options(waiters text[], webhook_url text, traceparent text) returns text
language sql stable parallel safe
begin atomic
    select case
        when waiters is not null and not pushq.are_channels(waiters) then 'jobs_waiters_are_1_to_16_channels'
        when not pushq.is_webhook_url(webhook_url) then 'jobs_webhook_url_is_http_of_at_most_2000_characters'
        when not pushq.is_traceparent(traceparent) then 'jobs_traceparent_is_of_w3c_trace_context'
    end;
end;

create or replace function pushq.check_job() returns trigger
language plpgsql
as $$
declare
    broken_rule pg_catalog.text := pushq.broken_rule(
        new.task, new.payload, new.queue, new.run_at, new.max_attempts, new.timeout, new.unique_key, new.tenant_id,
        new.correlation_id, new.submitted_by, new.status, new.attempt, new.failures, new.crashes, new.started_at,
        new.finished_at, new.finished_on, new.supervisor, new.pool, new.token);
begin
    if broken_rule is null and (new.waiters is not null or new.webhook_url is not null or new.traceparent is not null) then
        broken_rule := pushq.broken_rule_of_options(new.waiters, new.webhook_url, new.traceparent);
    end if;
    if broken_rule is not null then
        perform pushq.refuse_job(broken_rule);
    end if;
    if new.payload_is_too_long is not null or pushq.may_have_long_numbers(new.payload) then
        new.payload_is_too_long := pushq.is_too_long(new.payload);
    end if;
    return new;
end
$$;

drop trigger zz_check_job on pushq.jobs_unfinished;
create trigger zz_check_job
before insert or update of
    task, payload, queue, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, submitted_by,
    payload_is_too_long, waiters, webhook_url, traceparent
on pushq.jobs_unfinished
for each row execute function pushq.check_job();
alter table pushq.jobs_unfinished enable always trigger zz_check_job;


-- Rights ---------------------------------------------------------------------------------------------------------

do $$
begin
    execute replace(replace(replace(
        pg_get_functiondef('pushq.grant_to_tenants()'::regprocedure),
        'progress, finished_on)', 'progress, webhook_url, traceparent, finished_on)'),
        'submitted_by, waiters)', 'submitted_by, waiters, webhook_url, traceparent)'),
        'pushq.are_channels(text[]),',
        'pushq.are_channels(text[]), pushq.is_webhook_url(text), pushq.is_traceparent(text), pushq.broken_rule_of_options,');
    if pushq.is_separated() and to_regrole('pushq_tenant') is not null then
        perform pushq.grant_to_tenants();
    end if;
end
$$;
