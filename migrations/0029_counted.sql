-- Jobs that run already begin to hold what a new limit says while nobody counts.
--
-- Theory of operation. A claim counts what is held of a name, and commits later. If running jobs were stamped with the name in between,
-- the claim would add to what nobody has counted. So pushq.stamp() goes through the turnstiles of the names, as claims do, before it
-- stamps jobs that run. Queued jobs hold nothing, and stamping these alone stops no claim.

insert into pushq.migrations (version, name) values (29, '0029_counted');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 29;

create or replace function pushq.stamp(after uuid default null, most int default 2000) returns table (looked int, stamped int, last uuid)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_variable
declare
    fair_queues text[] := array(select known.name from pushq.queues as known where known.fair is not null);
    ids uuid[];
    are_counted boolean := false;
begin
    with seen as materialized (
        select job.id, job.queue, job.task, job.tenant_id, job.limit_key, job.share, job.needs
        from pushq.jobs_unfinished as job
        where job.id >= coalesce(stamp.after, '00000000-0000-0000-0000-000000000000') and job.id is distinct from stamp.after
        order by job.id
        limit stamp.most
    )
    select
        (select count(*) from seen), (select id from seen order by id desc limit 1),
        array(
            select its.id
            from (
                select
                    array_agg(seen.id) as ids, array_agg(seen.needs) as all_needs,
                    array(
                        select jsonb_object_keys(pushq.all_needs(null, null, null, seen.queue, seen.task, seen.tenant_id))) as names
                from seen
                group by seen.queue, seen.task, seen.tenant_id
            ) as alike
            cross join lateral unnest(alike.ids, alike.all_needs) as its (id, needs)
            where cardinality(alike.names) > 0 and (its.needs is null or not its.needs ?& alike.names)
            union
            select seen.id
            from seen
            where (seen.share <> '' or seen.queue = any(fair_queues))
            and nullif(seen.share, '') is distinct from pushq.share(seen.queue, seen.tenant_id, seen.limit_key)
            order by id
        )
    into looked, last, ids;
    if exists (select from pushq.jobs_unfinished as job where job.id = any(ids) and job.status <> 'queued') then
        perform
        from pushq.turnstiles
        where turnstile = any(array(
            select distinct hashtext(name) & 255
            from (
                select distinct job.queue, job.task, job.tenant_id from pushq.jobs_unfinished as job where job.id = any(ids)
            ) as alike
            cross join lateral jsonb_object_keys(pushq.all_needs(null, null, null, alike.queue, alike.task, alike.tenant_id)) as name))
        order by turnstile
        for update;
        are_counted := true;
    end if;
    ids := array(
        select job.id
        from unnest(ids) as lacking (id)
        cross join lateral (
            select its.id
            from pushq.jobs_unfinished as its
            where its.id = lacking.id and (its.status = 'queued' or are_counted)
            for no key update skip locked
        ) as job);
    -- A limit may be gone again by now.
    update pushq.jobs_unfinished as job set needs = job.needs
    where job.id = any(ids) and (
        job.needs is distinct from pushq.all_needs(
            pushq.as_object(pushq.own_needs(job.needs)), job.limit_key, job.affinity, job.queue, job.task, job.tenant_id)
        or nullif(job.share, '') is distinct from pushq.share(job.queue, job.tenant_id, job.limit_key));
    get diagnostics stamped = row_count;
    last := case when looked = stamp.most then last end;
    return next;
end
$$;
