-- Supervisors with leases, the tasks and queues that any supervisor has known, and the tallies behind /metrics.

insert into pushq.migrations (version, name) values (3, '0003_supervisors');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 3;

-- A row for each live supervisor. heartbeat counts the heartbeats. A pause of the database makes every lease expire, so a
-- sweeper trusts an expired lease only if the count has stood still as well. workers: of all ordinary pools together; 0: unknown.
create table pushq.supervisors (
    name text primary key,
    host text not null,
    pid int not null,
    started_at timestamptz not null default now(),
    heartbeat bigint not null default 0,
    lease interval not null,
    lease_until timestamptz not null,
    tasks text[] not null default '{}',
    queues text[] not null default '{}',
    workers int not null default 0
) with (fillfactor = 50);

-- Queues that a supervisor has served, or a person has paused. '*' stands for all queues.
create table pushq.queues (
    name text primary key,
    served_since timestamptz,
    paused_at timestamptz,
    constraint queues_name_has_1_to_200_characters check (length(name) between 1 and 200)
);

-- The given queues without paused ones, with their places in the given order.
create function pushq.open_queues(queues text[]) returns table (name text, place bigint)
language sql stable parallel safe
begin atomic
    select queue.name, queue.place
    from unnest(open_queues.queues) with ordinality as queue (name, place)
    where not exists (
        select from pushq.queues as paused where paused.name in (queue.name, '*') and paused.paused_at is not null);
end;

-- Tasks that any supervisor has known.
create table pushq.tasks (
    name text primary key,
    known_since timestamptz not null default now()
);

-- The pairs of queue and task that have labels in metrics. All other pairs are counted as ('_other', '_other'). A task on the
-- queue of its registration needs no place. Other pairs come from producers' rows: the first thousand such pairs with an
-- outcome take a place each. A pair keeps its labels, so that no counter ever falls.
create table pushq.labels (
    queue text not null,
    task text not null,
    place smallint unique,
    primary key (queue, task),
    constraint labels_place_is_1_to_1000 check (place between 1 and 1000)
);
insert into pushq.labels (queue, task) values ('_other', '_other');

-- Tallies of outcomes. Each statement that changes jobs appends to tally_log, once a batch; a sweeper folds the log into
-- tallies. The sum of log and tallies makes the counters of /metrics: the same from every supervisor, whatever retention drops.
--   outcome      succeeded, failed, cancelled: a job finished; retried, requeued: an attempt ended and the job goes on
--   run_bucket   how many of pushq.run_bounds() the last attempt's run exceeded; -1: the job never ran
--   wait_bucket  how many of pushq.wait_bounds() the wait from due to started exceeded; -1: the job never ran
create table pushq.tallies (
    queue text not null,
    task text not null,
    outcome text not null,
    run_bucket smallint not null,
    wait_bucket smallint not null,
    jobs bigint not null,
    run_seconds double precision not null,
    wait_seconds double precision not null,
    primary key (queue, task, outcome, run_bucket, wait_bucket)
) with (fillfactor = 50);

create table pushq.tally_log (
    queue text not null,
    task text not null,
    outcome text not null,
    run_bucket smallint not null,
    wait_bucket smallint not null,
    jobs bigint not null,
    run_seconds double precision not null,
    wait_seconds double precision not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
alter table pushq.tally_log replica identity full;  -- a fold deletes rows, which a publication needs an identity for

-- Unfinished jobs, counted in the background. A row for each queue and status.
create table pushq.census (
    queue text not null,
    status text not null,
    jobs bigint not null,
    oldest_due_at timestamptz,
    primary key (queue, status)
);

-- The running jobs at the last census. A row for each pair of queue and task.
create table pushq.census_running (
    queue text not null,
    task text not null,
    oldest_started_at timestamptz not null,
    primary key (queue, task)
);

-- When the census was taken, and how long the count took. The next census waits for a hundred times as long.
create table pushq.census_clock (
    only_row boolean primary key default true check (only_row),
    taken_at timestamptz not null default '-infinity',
    took interval not null default '0'
);
insert into pushq.census_clock default values;

-- Upper bounds of the histograms' buckets, in seconds.
create function pushq.run_bounds() returns double precision[]
language sql immutable parallel safe
return array[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600]::double precision[];

create function pushq.wait_bounds() returns double precision[]
language sql immutable parallel safe
return array[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200]::double precision[];

-- How many bounds a duration exceeds; -1 for null. Half a microsecond is taken off, so that a duration equal to a bound stays
-- below the bound.
create function pushq.bucket(duration interval, bounds double precision[]) returns smallint
language sql immutable parallel safe
return coalesce(width_bucket(date_part('epoch', duration) - 0.0000005, bounds), -1)::smallint;

-- The wait of a job, from due to started.
create function pushq.waited(run_at timestamptz, enqueued_at timestamptz, started_at timestamptz) returns interval
language sql immutable parallel safe
return greatest(started_at - greatest(run_at, enqueued_at), interval '0');

-- Whether a pair of queue and task has labels. Gives the pair a place, if places are left. Only for pushq's own short
-- statements: until the transaction ends, other transactions that take a place wait. After a second of waiting, the pair gets
-- no place yet, and later pairs of the same transaction do not wait.
create function pushq.label(queue text, task text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
begin
    if current_setting('pushq.labels', true) = 'held' then
        return false;
    elsif not exists (select from pushq.labels as known where known.queue = label.queue and known.task = label.task)
        and not exists (select from pushq.labels where place = 1000) then
        -- Locks the row, so that no place is taken twice. Inserts the row if the table was emptied.
        insert into pushq.labels (queue, task) values ('_other', '_other')
        on conflict on constraint labels_pkey do update set place = null;

        insert into pushq.labels (queue, task, place)
        select label.queue, label.task, coalesce(max(place), 0) + 1
        from pushq.labels
        having coalesce(max(place), 0) < 1000
        on conflict on constraint labels_pkey do nothing;
    end if;
    return exists (select from pushq.labels as known where known.queue = label.queue and known.task = label.task);
exception when lock_not_available then
    perform set_config('pushq.labels', 'held', true);
    return false;
end
$$;

-- Tallies jobs that are queued again, given by queues and tasks (null: no jobs). outcome: retried or requeued.
create function pushq.tally_back(outcome text, queues text[], tasks text[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into pushq.tally_log (queue, task, outcome, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds)
    select
        case when labelled.has_label then labelled.queue else '_other' end,
        case when labelled.has_label then labelled.task else '_other' end,
        tally_back.outcome, -1, -1, labelled.jobs, 0, 0
    from (
        select went_back.*, pushq.label(went_back.queue, went_back.task) as has_label
        from (
            select job.queue, job.task, count(*) as jobs
            from unnest(tally_back.queues, tally_back.tasks) as job (queue, task)
            group by job.queue, job.task
        ) as went_back
        offset 0  -- label() once a row
    ) as labelled
$$;
