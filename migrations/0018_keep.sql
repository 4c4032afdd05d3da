-- Retention by queue: finished jobs that a queue's keep or keep_failed is over for are purged from days that are too young to be
-- dropped.
--
-- A purge is a pass through a day by ranges of blocks, a step at a time, which needs no index and can go on where another sweeper has
-- stopped. Each pass notes when the first of the rows that it left is due. Until then nobody looks again, so that a day in which no
-- queue has a rule is read once, and history costs nothing.
--
-- A day is dropped when it is past PUSHQ_RETENTION and the longest keep, or when it is past PUSHQ_RETENTION and has no row left.
-- Rows without a rule are purged from a day that is kept beyond PUSHQ_RETENTION.

insert into pushq.migrations (version, name) values (18, '0018_keep');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 18;

comment on column pushq.queues.keep is
    'How long its finished jobs are kept. Null: as the row ''*'' says, else as PUSHQ_RETENTION.';
comment on column pushq.queues.keep_failed is
    'The same for its failed jobs. Null: as its keep, else as the row ''*'' says, else as PUSHQ_RETENTION.';

-- Not columns of pushq.days, which every finish reads: while a long transaction is open, each step would leave a dead row there. The
-- column days.purged_to is not used.
create table pushq.purges (
    day date primary key,
    rules text not null,
    is_outlived boolean not null default false,
    next_block bigint not null default 0,
    began_at timestamptz not null default now(),
    next_at timestamptz not null default now(),
    due_at timestamptz not null default 'infinity',
    looked interval not null default '0'
) with (fillfactor = 50);
comment on table pushq.purges is 'The latest pass of the purge through each day.';
comment on column pushq.purges.rules is 'A digest of the rules under which the pass began. Under others, a new pass begins.';
comment on column pushq.purges.is_outlived is 'Whether the day was past PUSHQ_RETENTION.';
comment on column pushq.purges.next_block is 'The block of the day''s table at which the next step begins.';
comment on column pushq.purges.next_at is 'When the next step may begin. Infinity: not before the rules change.';
comment on column pushq.purges.due_at is 'When the first of the rows that the pass has left is due.';
comment on column pushq.purges.looked is 'How long the pass took, without the steps that purged jobs.';


-- Rules ----------------------------------------------------------------------------------------------------------

-- Chooses how long the queue's finished jobs are kept, and its failed jobs; null: by default. '*': the queues that say nothing.
create function pushq.keep(queue text, keep interval default null, keep_failed interval default null) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not coalesce(length(keep.queue) between 1 and 200, false) then
        raise invalid_parameter_value using message = format(
            'pushq.keep: name a queue by 1 to 200 characters, or ''*'' for the queues that say nothing, not %L', left(keep.queue, 100));
    elsif least(keep.keep, keep.keep_failed) < interval '0' then
        raise invalid_parameter_value using message = format(
            'pushq.keep: a time to keep jobs is 0 or more, not %s; null is the default', least(keep.keep, keep.keep_failed));
    end if;
    insert into pushq.queues as known (name, keep, keep_failed) values (keep.queue, keep.keep, keep.keep_failed)
    on conflict (name) do update set keep = excluded.keep, keep_failed = excluded.keep_failed
        where (known.keep, known.keep_failed) is distinct from (excluded.keep, excluded.keep_failed);
    return case
        when not found then 'as before'
        when keep.keep is null and keep.keep_failed is null then 'by default'
        else 'changed'
    end;
end
$$;

-- Nulls if there are no rules. rules: a digest of all. shortest: never below the quarter of a minute for which whoever waits for a
-- job may need to look at its row. longest: not so long that an instant in the past does not exist.
create function pushq.keep_rules(out rules text, out shortest interval, out longest interval)
language sql stable
begin atomic
    select
        md5(string_agg(jsonb_build_array(known.name, known.keep, known.keep_failed)::text, '' order by known.name)),
        case when count(*) > 0 then
            least(greatest(min(least(known.keep, known.keep_failed)), interval '15 seconds'), interval '1000 years')
        end,
        case when count(*) > 0 then least(max(greatest(known.keep, known.keep_failed)), interval '1000 years') end
    from pushq.queues as known
    where known.keep is not null or known.keep_failed is not null;
end;

-- The instant up to which finished jobs go. keep: null if no rule says anything; then all jobs of an outlived day go, and no others.
create function pushq.cutoff(keep interval, is_outlived boolean) returns timestamptz
language sql stable
return case
    when keep is null then case when is_outlived then timestamptz 'infinity' else '-infinity' end
    else now() - least(greatest(keep, interval '15 seconds'), interval '1000 years')
end;

-- For each queue with a rule of its own, and for '*', which stands for the others: the instants up to which failed and other jobs go.
create function pushq.cutoffs(is_outlived boolean) returns table (queue text, failed timestamptz, others timestamptz)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select
        known.name,
        pushq.cutoff(coalesce(known.keep_failed, known.keep, every.keep_failed, every.keep), cutoffs.is_outlived),
        pushq.cutoff(coalesce(known.keep, every.keep), cutoffs.is_outlived)
    from (
        select queue.name, queue.keep, queue.keep_failed
        from pushq.queues as queue
        where queue.name <> '*' and (queue.keep is not null or queue.keep_failed is not null)
        union all
        select '*', null, null
    ) as known
    left join pushq.queues as every on every.name = '*'
$$;

-- Whether all that the day's jobs have lived is more than keep.
create function pushq.is_outlived(the_day date, keep interval) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from pushq.days as newer
        where newer.day > is_outlived.the_day
        and newer.day <= (now() - is_outlived.keep) at time zone 'utc')
$$;


-- The purge ------------------------------------------------------------------------------------------------------

-- The days that have something to purge, or may have, the newest first: short times to live are at work there. None without a rule.
create function pushq.days_to_purge(retention interval) returns setof date
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted record := pushq.keep_rules();
begin
    if wanted.rules is null then
        return;
    end if;
    delete from pushq.purges as past
    where not exists (select from pushq.days as known where known.day = past.day and known.retired_at is null);
    return query
    select known.day
    from pushq.days as known
    left join pushq.purges as pass on pass.day = known.day
    where known.retired_at is null and known.day <= pushq.current_day()
    and known.day in (select pushq.attached_days())
    and (
        pass.day is null or pass.next_at <= now() or pass.rules <> wanted.rules
        or pass.began_at > now()  -- before the clock was set back
        or not pass.is_outlived and pushq.is_outlived(known.day, days_to_purge.retention))
    order by known.day desc;
end
$$;

-- One step of a pass through a day: looks at up to `blocks` blocks, and deletes up to `most` jobs. Left are jobs that somebody has
-- locked, to retry them for example, and jobs with an unfinished delivery of a webhook. is_over: the pass is over, or another sweeper is
-- at work. trouble: why jobs could not be deleted; the next step goes on behind them.
--
-- Rows are found by their places, and the table of unfinished jobs is never joined: a delivery is found by its key, which begins
-- with its job's. The first key from there on is looked at, since no collation has a shorter way to all of them.
create function pushq.purge_day(
    the_day date, retention interval, blocks int default 128, most int default 5000,
    out purged bigint, out is_over boolean, out milliseconds float8, out trouble text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
set enable_hashjoin = on
set enable_mergejoin = off
set enable_nestloop = off
set enable_seqscan = off
set jit = off
as $$
declare
    wanted record := pushq.keep_rules();
    is_outlived boolean := pushq.is_outlived(purge_day.the_day, purge_day.retention);
    its_table text := to_char(purge_day.the_day, '"jobs_"YYYY_MM_DD');
    began_at timestamptz := clock_timestamp();
    is_anew boolean;
    pass pushq.purges;
    until_block bigint;
    done record;
begin
    if coalesce(least(purge_day.blocks, purge_day.most), 0) < 1 then
        raise invalid_parameter_value using message = format(
            'pushq.purge_day: at least one block and one job a step, not %s and %s', purge_day.blocks, purge_day.most);
    end if;
    purged := 0;
    is_over := true;
    milliseconds := 0;
    if wanted.rules is null or purge_day.the_day not in (select pushq.attached_days()) then
        return;
    end if;
    insert into pushq.purges (day, rules) values (purge_day.the_day, wanted.rules) on conflict do nothing;
    select * into pass from pushq.purges where day = purge_day.the_day for update skip locked;
    is_anew := pass.rules <> wanted.rules or pass.began_at > now() or is_outlived and not pass.is_outlived;
    if not found or pass.next_at > now() and not is_anew then
        return;  -- another sweeper is at work, or has ended the pass
    end if;
    if is_anew or pass.next_block = 0 then
        pass := row (purge_day.the_day, wanted.rules, is_outlived, 0, now(), now(), 'infinity', '0');
    end if;
    until_block := pass.next_block + purge_day.blocks;
    begin
        execute format(
            $step$
            with rule as materialized (
                select * from pushq.cutoffs($1)
            ),
            seen as materialized (
                select job.place, job.id, job.tenant_id, job.finished_at, job.cutoff
                from (
                    select
                        its.ctid as place, its.id, its.tenant_id, its.finished_at,
                        case its.status
                            when 'failed' then coalesce(rule.failed, (select failed from rule where queue = '*'))
                            else coalesce(rule.others, (select others from rule where queue = '*'))
                        end as cutoff
                    from pushq.%1$I as its
                    left join rule on rule.queue = its.queue
                    where its.ctid >= $2 and its.ctid < $3
                    offset 0
                ) as job
                where job.cutoff > '-infinity'
                order by job.place  -- whichever side of the join is hashed
            ),
            due as materialized (
                select seen.place
                from seen
                where seen.finished_at <= seen.cutoff
                and not coalesce((
                    select starts_with(delivery.unique_key, 'pushq.webhooks ' || seen.id || ' ')
                    from pushq.jobs_unfinished as delivery
                    where delivery.tenant_id is null and delivery.unique_key >= 'pushq.webhooks ' || seen.id || ' '
                    order by delivery.tenant_id, delivery.unique_key
                    limit 1), false)
                and not coalesce(
                    case when seen.tenant_id is not null then (
                        select starts_with(delivery.unique_key, 'pushq.webhooks ' || seen.id || ' ')
                        from pushq.jobs_unfinished as delivery
                        where delivery.tenant_id = seen.tenant_id
                        and delivery.unique_key >= 'pushq.webhooks ' || seen.id || ' '
                        order by delivery.tenant_id, delivery.unique_key
                        limit 1)
                    end, false)
                limit $4
            ),
            free as materialized (
                select ctid as place from pushq.%1$I where ctid = any(array(select place from due)) for update skip locked
            ),
            gone as (
                delete from pushq.%1$I where ctid = any(array(select place from free)) returning 1
            )
            select
                (select count(*) from due) as due,
                (select max(place) from due) as last_due,
                (select count(*) from free) as free,
                (select count(*) from gone) as gone,
                (select count(*) from seen where finished_at <= cutoff) as old,
                (
                    select min(now() + (least(finished_at, now()) - cutoff))
                    from seen
                    where finished_at > cutoff and isfinite(finished_at)
                ) as next_due
            $step$,
            its_table)
        into done
        using
            is_outlived, format('(%s,0)', pass.next_block)::tid, format('(%s,0)', until_block)::tid, purge_day.most;
        purged := done.gone;
        if done.gone < done.free then
            trouble := format('a trigger or a row-level policy keeps %s of %s', done.free - done.gone, done.free);
        end if;
        if done.due = purge_day.most and done.gone > 0 then
            until_block := (done.last_due::text::point)[0];  -- there may be more, in the same block
        end if;
        pass.due_at := least(pass.due_at, case when done.old > done.gone then now() end, done.next_due);
    exception
        when lock_not_available then
            return;
        when others then
            trouble := format('%s (%s)', sqlerrm, sqlstate);
            pass.due_at := now();
    end;
    milliseconds := 1000 * extract(epoch from clock_timestamp() - began_at);
    if purged = 0 then
        pass.looked := pass.looked + (clock_timestamp() - began_at);
    end if;
    is_over := until_block >= pg_relation_size(to_regclass('pushq.' || its_table)) / current_setting('block_size')::bigint;
    if is_over then
        until_block := 0;
        -- What ended during the pass may lie behind it.
        if purge_day.the_day >= least(pushq.current_day(), ((pass.began_at - interval '1 hour') at time zone 'utc')::date) then
            pass.due_at := least(pass.due_at, pass.began_at + wanted.shortest);
        end if;
        pass.next_at := greatest(
            pass.due_at, now() + least(wanted.shortest / 10, interval '1 hour'), now() + least(20 * pass.looked, interval '1 day'));
    end if;
    update pushq.purges
    set rules = pass.rules,
        is_outlived = pass.is_outlived,
        next_block = until_block,
        began_at = pass.began_at,
        next_at = pass.next_at,
        due_at = pass.due_at,
        looked = pass.looked
    where day = purge_day.the_day;
end
$$;


-- Days -----------------------------------------------------------------------------------------------------------

-- As in 0001_jobs. A day that is past `keep`, and young by the longest keep of a queue, is emptied once it has no row left. Autovacuum
-- has given back its pages by then, so that the look is short.
create or replace function pushq.retire_days(keep interval) returns table (day date, trouble text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
#variable_conflict use_column
declare
    longest interval := greatest(keep, (select rule.longest from pushq.keep_rules() as rule));
    the_day date;
    its_table text;
    is_kept boolean;
    has_rows boolean;
begin
    if keep <= interval '0' then
        raise exception 'pushq.retire_days(%): give the time for which finished jobs are kept', keep;
    end if;
    for the_day in
        select older.day
        from pushq.days as older
        where older.retired_at is null
        and older.day in (select pushq.attached_days())
        and pushq.is_outlived(older.day, keep)
        order by older.day
        for update skip locked
    loop
        its_table := to_char(the_day, '"jobs_"YYYY_MM_DD');
        is_kept := not pushq.is_outlived(the_day, longest);
        begin
            if is_kept then
                continue when pg_relation_size(to_regclass('pushq.' || its_table)) > 64 * 8192;
                execute format('select exists (select from pushq.%I)', its_table) into has_rows;
                continue when has_rows;
                execute format('lock table pushq.%I in access exclusive mode', its_table);
                execute format('select exists (select from pushq.%I)', its_table) into has_rows;
                continue when has_rows;
            end if;
            execute format('truncate table pushq.%I', its_table);
        exception
            when lock_not_available then
                continue;
            when others then
                return query select the_day, format('%s (%s)', sqlerrm, sqlstate);
                continue;
        end;
        update pushq.days set retired_at = now() where day = the_day;
        return query select the_day, null::text;
    end loop;
end
$$;


-- Rights ---------------------------------------------------------------------------------------------------------

revoke execute on function pushq.days_to_purge(interval), pushq.purge_day(date, interval, int, int) from public;
do $$
declare
    its_role text;
begin
    for its_role in
        select distinct case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
        from pg_class, aclexplode(relacl)
        where oid = 'pushq.jobs_unfinished'::regclass and privilege_type = 'UPDATE' and grantee <> relowner
    loop
        execute format(
            'grant execute on function pushq.days_to_purge(interval), pushq.purge_day(date, interval, int, int) to %s', its_role);
    end loop;
end
$$;
