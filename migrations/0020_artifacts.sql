-- Artifacts: files that handlers leave with their job, by name.
--
-- While an artifact is written, pushq.artifact_drafts has its row; readers see nothing. When it is complete, its row moves to
-- pushq.artifacts, in place of the row that an earlier attempt has left under the name. The bytes lie in pieces of at most 1 MiB, in
-- the partition of the day on which the artifact was begun, also those written after midnight. A job without artifacts pays nothing.
--
-- Whoever writes gives the job's token. Each piece is taken only while the job is held under the token, and the job's row is locked
-- where an artifact becomes complete, so that an attempt that has lost its job replaces nothing.
--
-- The rows go with their job. The pieces of a whole day are truncated when no row points into the day any more. Only the pieces of
-- what was replaced, given up or deleted sooner are deleted one by one, at most 256 MiB of them in a step.
--
-- Locks are taken in the order job, draft, artifact, pushq.artifact_bytes.

insert into pushq.migrations (version, name) values (20, '0020_artifacts');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 20;

-- A name is no path, fits into a directory, and shows as it is: no control characters, and none that turn the direction of text.
create function pushq.is_artifact_name(name text) returns boolean
language sql immutable parallel safe
return coalesce(
    length(name) >= 1 and length(name) <= 200 and octet_length(name) <= 255 and name not in ('.', '..')
    and name !~ '[/\\\x01-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]', false);

create function pushq.is_content_type(content_type text) returns boolean
language sql immutable parallel safe
return coalesce(
    length(content_type) <= 200
    and content_type ~ '^[a-zA-Z0-9!#$&^_.+-]+/[a-zA-Z0-9!#$&^_.+-]+( ?; ?[ -~]+)?$', false);

create table pushq.artifacts (
    id uuid not null constraint artifacts_id unique,
    job_id uuid not null,
    tenant_id text,
    attempt int not null,
    token uuid not null,
    name text not null constraint artifacts_name_is_no_path check (pushq.is_artifact_name(name)),
    content_type text not null constraint artifacts_content_type_is_one check (pushq.is_content_type(content_type)),
    size bigint not null constraint artifacts_size_is_not_negative check (size >= 0),
    sha256 bytea not null constraint artifacts_sha256_has_32_bytes check (octet_length(sha256) = 32),
    pieces int not null,
    day date not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (job_id, name)
);
create table pushq.artifact_drafts (
    id uuid primary key,
    job_id uuid not null,
    tenant_id text,
    attempt int not null,
    token uuid not null,
    name text not null,
    content_type text not null,
    size bigint not null default 0,
    pieces int not null default 0,
    day date not null,
    constraint artifact_drafts_key unique (job_id, name, token)
) with (fillfactor = 50);
create table pushq.artifact_pieces (
    artifact_id uuid not null,
    place int not null,
    data bytea not null constraint artifact_pieces_have_1_to_1048576_bytes check (octet_length(data) between 1 and 1048576),
    day date not null,
    primary key (artifact_id, place, day)
) partition by range (day);
alter table pushq.artifact_pieces alter column data set storage external;

-- How many bytes the jobs of each tenant have written on a day. In sixteen rows, so that those who write at once seldom meet.
create table pushq.artifact_bytes (
    tenant_id text not null,
    day date not null,
    shard smallint not null,
    bytes bigint not null,
    primary key (tenant_id, day, shard)
) with (fillfactor = 50);

-- squawk-ignore require-concurrent-index-creation
create index artifacts_day on pushq.artifacts (day);
-- squawk-ignore require-concurrent-index-creation
create index artifact_drafts_day on pushq.artifact_drafts (day);
-- squawk-ignore require-concurrent-index-creation
create index artifact_bytes_day on pushq.artifact_bytes (day);

comment on table pushq.artifacts is 'Files that handlers have left with their jobs, each complete. Written by pushq.';
comment on column pushq.artifacts.attempt is 'The attempt that has written the artifact.';
comment on column pushq.artifacts.token is 'The token of that attempt''s claim.';
comment on column pushq.artifacts.day is 'The day in whose partition the bytes lie.';
comment on table pushq.artifact_drafts is 'Artifacts that are being written. Those of dead writers go with a sweep.';
comment on table pushq.artifact_pieces is 'The bytes of artifacts and drafts, read by pushq.artifact_piece().';
comment on table pushq.artifact_bytes is 'Bytes that tenants have written on a day, today and yesterday.';


-- Days -----------------------------------------------------------------------------------------------------------

-- Makes the missing partitions for the days of jobs.
create function pushq.make_artifact_days() returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    the_day date;
    its_table text;
begin
    for the_day in select day from pushq.days where retired_at is null order by day loop
        its_table := to_char(the_day, '"artifact_pieces_"YYYY_MM_DD');
        continue when to_regclass('pushq.' || its_table) is not null;
        execute format(
            'create table pushq.%I (like pushq.artifact_pieces including constraints including storage including compression)',
            its_table);
        execute format(
            'alter table pushq.artifact_pieces attach partition pushq.%I for values from (%L) to (%L)',
            its_table, the_day, the_day + 1);
    end loop;
end
$$;

create or replace function pushq.make_event_days_too() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pushq.make_event_days();
    perform pushq.make_artifact_days();
    return null;
end
$$;

select pushq.make_artifact_days();

-- The partitions of days that are over and that no row points into, also those that were detached and not dropped. outlived: whether
-- the day is before the oldest day of jobs, so that its partition may go; never while pushq.days has lost its rows.
create function pushq.spent_artifact_days() returns table (day date, partition text, outlived boolean)
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select
        of_day.day, of_day.partition,
        coalesce(of_day.day < (select min(known.day) from pushq.days as known where known.retired_at is null), false)
    from (
        select to_date(partition.relname::text, '"artifact_pieces_"YYYY_MM_DD') as day, partition.relname::text as partition
        from pg_class as partition
        where partition.relnamespace = 'pushq'::regnamespace and partition.relkind = 'r'
        and partition.relname ~ '^artifact_pieces_[0-9]{4}_[0-9]{2}_[0-9]{2}$'
    ) as of_day
    where of_day.day < pushq.current_day()
    and not exists (select from pushq.artifacts as artifact where artifact.day = of_day.day)
    and not exists (select from pushq.artifact_drafts as draft where draft.day = of_day.day);
end;

-- Empties these partitions. Returns days that cannot be emptied, with the trouble. A day with open readers is left for the next
-- time. Looks again under the lock: who has begun an artifact of that day writes no piece meanwhile.
create function pushq.retire_artifact_days() returns table (day date, trouble text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
#variable_conflict use_column
declare
    spent record;
begin
    for spent in select day, partition from pushq.spent_artifact_days() order by day loop
        continue when pg_table_size(to_regclass('pushq.' || quote_ident(spent.partition))) <= current_setting('block_size')::int;  -- empty but for an index
        begin
            execute format('lock table pushq.%I in access exclusive mode', spent.partition);
            if exists (select from pushq.spent_artifact_days() as still where still.day = spent.day) then
                execute format('truncate table pushq.%I', spent.partition);
            end if;
        exception
            when lock_not_available then
                null;
            when others then
                return query select spent.day, format('%s (%s)', sqlerrm, sqlstate);
        end;
    end loop;
end
$$;


-- Writing --------------------------------------------------------------------------------------------------------

create function pushq.delete_artifact_pieces(artifact_id uuid, day date) returns void
language sql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
begin atomic
    delete from pushq.artifact_pieces as piece
    where piece.artifact_id = delete_artifact_pieces.artifact_id and piece.day = delete_artifact_pieces.day;
end;

-- Begins an artifact of a job that is held under the token, and returns its id. Null: the job is no longer held. What the same claim
-- has begun under the name and not completed is given up. Raises unique_violation if the claim has completed one,
-- program_limit_exceeded if the job has `most` others, and invalid_parameter_value for what is no name or no content type.
create function pushq.begin_artifact(
    id uuid, token uuid, name text, content_type text default 'application/octet-stream', most int default 1000)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    held record;
    its_id uuid := pushq.uuidv7();
    given_up record;
begin
    if not pushq.is_artifact_name(begin_artifact.name) then
        raise invalid_parameter_value using message = format(
            'the artifact''s name %L cannot be used; give 1 to 200 characters, at most 255 bytes, without /, \ and control '
            'characters, those of direction included, and neither . nor ..', left(begin_artifact.name, 100));
    elsif not pushq.is_content_type(begin_artifact.content_type) then
        raise invalid_parameter_value using message = format(
            'the artifact %L has no content type by %L; give one like image/png, of at most 200 ASCII characters',
            begin_artifact.name, left(begin_artifact.content_type, 100));
    end if;
    select job.tenant_id, job.attempt into held
    from pushq.jobs_unfinished as job
    where job.id = begin_artifact.id and job.token = begin_artifact.token;
    if not found then
        return null;
    elsif exists (
        select from pushq.artifacts as artifact
        where artifact.job_id = begin_artifact.id and artifact.name = begin_artifact.name
        and artifact.token = begin_artifact.token)
    then
        raise unique_violation using message = format(
            'this attempt has written an artifact %L already; give another name', begin_artifact.name);
    end if;
    delete from pushq.artifact_drafts as draft
    where draft.job_id = begin_artifact.id and draft.name = begin_artifact.name and draft.token = begin_artifact.token
    returning draft.id, draft.day into given_up;
    if found then
        perform pushq.delete_artifact_pieces(given_up.id, given_up.day);
    end if;
    if begin_artifact.most <= (
        select count(distinct other.name)
        from (
            select artifact.name from pushq.artifacts as artifact where artifact.job_id = begin_artifact.id
            union all
            select draft.name from pushq.artifact_drafts as draft
            where draft.job_id = begin_artifact.id and draft.token = begin_artifact.token
        ) as other
        where other.name <> begin_artifact.name)
    then
        raise program_limit_exceeded using message = format(
            'the job has %s artifacts, and may have no more; put several files into one, or raise the limit',
            begin_artifact.most);
    end if;
    insert into pushq.artifact_drafts (id, job_id, tenant_id, attempt, token, name, content_type, day)
    values (
        its_id, begin_artifact.id, held.tenant_id, held.attempt, begin_artifact.token, begin_artifact.name,
        begin_artifact.content_type, pushq.current_day());
    return its_id;
end
$$;

-- Adds a piece of 1 to 1,048,576 bytes to a draft. place: 0, 1, 2 and so on; the last piece, given again after a lost reply, is not
-- added twice. Returns the draft's size. Null: there is no such draft, or its job is no longer held under the token. Raises
-- invalid_parameter_value for another place, and for other bytes than the last place has; program_limit_exceeded if the artifact would be larger than `largest`, or the tenant's jobs would have written more than `daily` on
-- the artifact's day. Jobs without a tenant have no such day. Null: no limit.
create function pushq.append_artifact(
    artifact_id uuid, token uuid, place int, data bytea, largest bigint default 104857600, daily bigint default 1073741824)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    its record;
begin
    if not coalesce(octet_length(append_artifact.data) between 1 and 1048576, false) then
        raise invalid_parameter_value using message = format(
            'a piece of an artifact has 1 to 1,048,576 bytes, not %s', coalesce(octet_length(append_artifact.data)::text, 'null'));
    end if;
    select * into its
    from pushq.artifact_drafts as draft
    where draft.id = append_artifact.artifact_id and draft.token = append_artifact.token
    for update;
    if not found
        or not exists (
            select from pushq.jobs_unfinished as job where job.id = its.job_id and job.token = append_artifact.token)
    then
        return null;
    elsif its.pieces = append_artifact.place + 1 then
        if append_artifact.data is distinct from (
            select piece.data
            from pushq.artifact_pieces as piece
            where piece.artifact_id = its.id and piece.place = append_artifact.place and piece.day = its.day)
        then
            raise invalid_parameter_value using message = format(
                'the artifact %L has other bytes at place %s already; give place %s, or begin the artifact again', its.name,
                append_artifact.place, its.pieces);
        end if;
        return its.size;
    elsif its.pieces < append_artifact.place then
        raise invalid_parameter_value using message = format(
            'the artifact %L has %s pieces; give place %s, not %s, or begin the artifact again if the database has lost pieces in a '
            'crash', its.name, its.pieces, its.pieces, append_artifact.place);
    elsif its.pieces is distinct from append_artifact.place then
        raise invalid_parameter_value using message = format(
            'the artifact %L has %s pieces; give place %s, not %s', its.name, its.pieces, its.pieces,
            coalesce(append_artifact.place::text, 'null'));
    elsif its.size + octet_length(append_artifact.data) > append_artifact.largest then
        raise program_limit_exceeded using message = format(
            'the artifact %L is over %s bytes, the limit', its.name, append_artifact.largest);
    end if;
    update pushq.artifact_drafts as draft
    set size = draft.size + octet_length(append_artifact.data), pieces = draft.pieces + 1
    where draft.id = its.id
    returning draft.size into its.size;
    if its.tenant_id is not null then
        insert into pushq.artifact_bytes as written (tenant_id, day, shard, bytes)
        values (its.tenant_id, its.day, abs(hashtext(its.id::text) % 16), octet_length(append_artifact.data))
        on conflict (tenant_id, day, shard) do update set bytes = written.bytes + excluded.bytes;
        if append_artifact.daily < (
            select sum(written.bytes)
            from pushq.artifact_bytes as written
            where written.tenant_id = its.tenant_id and written.day = its.day)
        then
            raise program_limit_exceeded using message = format(
                'with the artifact %L, jobs of the tenant %L would have written over %s bytes on %s, the limit of a day',
                its.name, its.tenant_id, append_artifact.daily, its.day);
        end if;
    end if;
    insert into pushq.artifact_pieces (artifact_id, place, data, day)
    values (its.id, append_artifact.place, append_artifact.data, its.day);
    return its.size;
end
$$;

-- Makes a draft an artifact that readers see, in place of the one of an earlier attempt with the name. size and sha256: of all its
-- bytes. Returns whether the artifact is complete, also where that was told before: false if there is no such draft, or its job is
-- no longer held under the token. Raises invalid_parameter_value for another size, for what is no SHA-256, and for another SHA-256
-- than the bytes have if they are at most 4 MiB; of more, the writer vouches for the SHA-256, and whoever reads compares.
create function pushq.complete_artifact(artifact_id uuid, token uuid, size bigint, sha256 bytea) returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    its record;
    found_sha256 bytea;
    replaced record;
begin
    if octet_length(complete_artifact.sha256) is distinct from 32 then
        raise invalid_parameter_value using message = format(
            'a SHA-256 has 32 bytes, not %s', coalesce(octet_length(complete_artifact.sha256)::text, 'null'));
    end if;
    select job.id into its
    from pushq.jobs_unfinished as job
    where job.id = (
        select draft.job_id from pushq.artifact_drafts as draft
        where draft.id = complete_artifact.artifact_id and draft.token = complete_artifact.token)
    and job.token = complete_artifact.token
    for share;
    if found then
        delete from pushq.artifact_drafts as draft
        where draft.id = complete_artifact.artifact_id
        returning draft.* into its;
    end if;
    if not found then
        select artifact.name, artifact.size, artifact.sha256 into its
        from pushq.artifacts as artifact
        where artifact.id = complete_artifact.artifact_id and artifact.token = complete_artifact.token;
        if not found then
            return false;
        elsif (its.size, its.sha256) is distinct from (complete_artifact.size, complete_artifact.sha256) then
            raise invalid_parameter_value using message = format(
                'the artifact %L was complete before, with %s bytes of SHA-256 %s, not with %s of %s', its.name, its.size,
                encode(its.sha256, 'hex'), coalesce(complete_artifact.size::text, 'null'), encode(complete_artifact.sha256, 'hex'));
        end if;
        return true;
    elsif its.size is distinct from complete_artifact.size then
        raise invalid_parameter_value using message = format(
            'the artifact %L has %s bytes here, and %s for its writer; give the size of all bytes, or begin the artifact again if '
            'the database has lost pieces in a crash', its.name, its.size, coalesce(complete_artifact.size::text, 'null'));
    elsif its.size <= 4194304 then
        select sha256(coalesce(string_agg(piece.data, '' order by piece.place), '')) into found_sha256
        from pushq.artifact_pieces as piece
        where piece.artifact_id = its.id and piece.day = its.day;
        if found_sha256 <> complete_artifact.sha256 then
            raise invalid_parameter_value using message = format(
                'the bytes of the artifact %L have the SHA-256 %s, not %s; give that of all bytes', its.name,
                encode(found_sha256, 'hex'), encode(complete_artifact.sha256, 'hex'));
        end if;
    end if;
    delete from pushq.artifacts as artifact
    where artifact.job_id = its.job_id and artifact.name = its.name
    returning artifact.id, artifact.day into replaced;
    if found then
        perform pushq.delete_artifact_pieces(replaced.id, replaced.day);
    end if;
    insert into pushq.artifacts (
        id, job_id, tenant_id, attempt, token, name, content_type, size, sha256, pieces, day)
    values (
        its.id, its.job_id, its.tenant_id, its.attempt, its.token, its.name, its.content_type, its.size,
        complete_artifact.sha256, its.pieces, its.day);
    return true;
end
$$;

-- Gives a draft up. Returns whether there was one.
create function pushq.discard_artifact(artifact_id uuid, token uuid) returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    its record;
begin
    delete from pushq.artifact_drafts as draft
    where draft.id = discard_artifact.artifact_id and draft.token = discard_artifact.token
    returning draft.id, draft.day into its;
    if not found then
        return false;
    end if;
    perform pushq.delete_artifact_pieces(its.id, its.day);
    return true;
end
$$;

-- Writes an artifact as a whole, and returns its id; the same id when the same claim gives the same bytes and content type again,
-- after a lost reply. Null: the job is no longer held under the token. Raises like the functions above.
create function pushq.put_artifact(
    id uuid, token uuid, name text, data bytea, content_type text default 'application/octet-stream', most int default 1000,
    largest bigint default 104857600, daily bigint default 1073741824)
returns uuid
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    its_id uuid;
begin
    if put_artifact.data is null then
        raise invalid_parameter_value using message = format(
            'pushq.put_artifact: the artifact %L has no bytes, but null', left(put_artifact.name, 100));
    end if;
    select artifact.id into its_id
    from pushq.artifacts as artifact
    where artifact.job_id = put_artifact.id and artifact.name = put_artifact.name and artifact.token = put_artifact.token
    and artifact.content_type = put_artifact.content_type and artifact.size = octet_length(put_artifact.data)
    and artifact.sha256 = sha256(put_artifact.data);
    if found then
        return its_id;
    end if;
    its_id := pushq.begin_artifact(
        put_artifact.id, put_artifact.token, put_artifact.name, put_artifact.content_type, put_artifact.most);
    for place in 0 .. (octet_length(put_artifact.data) - 1) / 1048576 loop
        exit when its_id is null or octet_length(put_artifact.data) = 0;
        if pushq.append_artifact(
            its_id, put_artifact.token, place, substring(put_artifact.data from place * 1048576 + 1 for 1048576),
            put_artifact.largest, put_artifact.daily) is null
        then
            its_id := null;
        end if;
    end loop;
    if pushq.complete_artifact(its_id, put_artifact.token, octet_length(put_artifact.data), sha256(put_artifact.data)) then
        return its_id;
    end if;
    return null;
end
$$;


-- Reading --------------------------------------------------------------------------------------------------------

-- A piece of an artifact, from place 0 on. Null after the last, and if there is no such artifact that the caller may read.
create function pushq.artifact_piece(artifact_id uuid, place int) returns bytea
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    its record;
begin
    select artifact.day, artifact.tenant_id into its
    from pushq.artifacts as artifact
    where artifact.id = artifact_piece.artifact_id;
    if not found or not pushq.may_touch(its.tenant_id) then
        return null;
    end if;
    return (
        select piece.data
        from pushq.artifact_pieces as piece
        where piece.artifact_id = artifact_piece.artifact_id and piece.place = artifact_piece.place and piece.day = its.day);
end
$$;

-- All bytes of a job's artifact. Null if there is none that the caller may read. For artifacts that fit into one value, of at most
-- 1 GB.
create function pushq.read_artifact(job_id uuid, name text) returns bytea
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    its record;
begin
    select artifact.id, artifact.day, artifact.tenant_id into its
    from pushq.artifacts as artifact
    where artifact.job_id = read_artifact.job_id and artifact.name = read_artifact.name;
    if not found or not pushq.may_touch(its.tenant_id) then
        return null;
    end if;
    return (
        select coalesce(string_agg(piece.data, '' order by piece.place), '')
        from pushq.artifact_pieces as piece
        where piece.artifact_id = its.id and piece.day = its.day);
end
$$;


-- Forgetting -----------------------------------------------------------------------------------------------------

-- Gives up drafts whose job is no longer held under their token, at most 1,000 or 256 MiB of them, and returns their number.
create function pushq.forget_drafts() returns int
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    dead record;
    forgotten int := 0;
    bytes bigint := 0;
begin
    for dead in
        select draft.id, draft.day, draft.size
        from pushq.artifact_drafts as draft
        cross join lateral (
            select exists (
                select from pushq.jobs_unfinished as job where job.id = draft.job_id and job.token = draft.token offset 0
            ) as is_held
        ) as job
        where not job.is_held
        order by draft.id
        limit 1000
        for update of draft skip locked
    loop
        delete from pushq.artifact_drafts where id = dead.id;
        perform pushq.delete_artifact_pieces(dead.id, dead.day);
        forgotten := forgotten + 1;
        bytes := bytes + dead.size;
        exit when bytes >= 268435456;
    end loop;
    return forgotten;
end
$$;

-- Looks at the next `most` artifacts after the id `after`, in order, and deletes those whose job is gone. looked: their number.
-- last: where to go on. outlived: whether the last is of a day before the oldest day of jobs; pieces of such days are left to
-- pushq.retire_artifact_days(). Of other days, at most 256 MiB go in a step.
create function pushq.forget_artifacts(
    after uuid default null, most int default 1000, out looked int, out forgotten int, out last uuid, out outlived boolean)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    one record;
    oldest date := (select min(day) from pushq.days where retired_at is null);
    bytes bigint := 0;
begin
    looked := 0;
    forgotten := 0;
    outlived := false;
    for one in
        select artifact.id, artifact.day, artifact.size, job.is_there
        from (
            select artifact.id, artifact.job_id, artifact.day, artifact.size
            from pushq.artifacts as artifact
            where artifact.id > coalesce(forget_artifacts.after, '00000000-0000-0000-0000-000000000000')
            order by artifact.id
            limit forget_artifacts.most
        ) as artifact
        cross join lateral (
            select exists (select from pushq.jobs as job where job.id = artifact.job_id offset 0) as is_there
        ) as job
        order by artifact.id
    loop
        looked := looked + 1;
        last := one.id;
        outlived := coalesce(one.day < oldest, false);
        continue when one.is_there;
        delete from pushq.artifacts where id = one.id;
        continue when not found;
        forgotten := forgotten + 1;
        if not outlived then
            perform pushq.delete_artifact_pieces(one.id, one.day);
            bytes := bytes + one.size;
            exit when bytes >= 268435456;
        end if;
    end loop;
end
$$;

-- Deletes up to `most` artifacts of a tenant, drafts first, at most 256 MiB, and returns their number. When none is left, deletes what
-- was counted of the tenant's bytes.
create function pushq.forget_artifacts_of(tenant text, most int) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    one record;
    forgotten bigint := 0;
    bytes bigint := 0;
begin
    for one in
        select draft.id, draft.day, draft.size
        from pushq.artifact_drafts as draft
        where draft.tenant_id = forget_artifacts_of.tenant
        order by draft.id
        limit forget_artifacts_of.most
        for update
    loop
        delete from pushq.artifact_drafts where id = one.id;
        perform pushq.delete_artifact_pieces(one.id, one.day);
        forgotten := forgotten + 1;
        bytes := bytes + one.size;
        exit when bytes >= 268435456;
    end loop;
    if forgotten > 0 then
        return forgotten;
    end if;
    for one in
        select artifact.id, artifact.day, artifact.size
        from pushq.artifacts as artifact
        where artifact.tenant_id = forget_artifacts_of.tenant
        order by artifact.id
        limit forget_artifacts_of.most
        for update
    loop
        delete from pushq.artifacts where id = one.id;
        perform pushq.delete_artifact_pieces(one.id, one.day);
        forgotten := forgotten + 1;
        bytes := bytes + one.size;
        exit when bytes >= 268435456;
    end loop;
    if forgotten = 0 then
        delete from pushq.artifact_bytes as written where written.tenant_id = forget_artifacts_of.tenant;
    end if;
    return forgotten;
end
$$;

-- Deletes the counts of bytes of days before yesterday, at most 10,000, and returns their number.
create function pushq.forget_artifact_bytes() returns int
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    forgotten int;
begin
    delete from pushq.artifact_bytes
    where ctid = any(array(
        select ctid from pushq.artifact_bytes where day < pushq.current_day() - 1 limit 10000 for update skip locked));
    get diagnostics forgotten = row_count;
    return forgotten;
end
$$;


-- Rights ---------------------------------------------------------------------------------------------------------

-- Whoever could run jobs before may write artifacts, and sweep.
revoke execute on function
    pushq.make_artifact_days(), pushq.retire_artifact_days(), pushq.begin_artifact(uuid, uuid, text, text, int),
    pushq.append_artifact(uuid, uuid, int, bytea, bigint, bigint), pushq.complete_artifact(uuid, uuid, bigint, bytea),
    pushq.discard_artifact(uuid, uuid), pushq.artifact_piece(uuid, int), pushq.read_artifact(uuid, text),
    pushq.forget_drafts(), pushq.forget_artifacts(uuid, int), pushq.forget_artifact_bytes()
    from public;
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
            'grant execute on function pushq.make_artifact_days(), pushq.retire_artifact_days(), '
            'pushq.begin_artifact(uuid, uuid, text, text, int), '
            'pushq.append_artifact(uuid, uuid, int, bytea, bigint, bigint), '
            'pushq.complete_artifact(uuid, uuid, bigint, bytea), pushq.discard_artifact(uuid, uuid), '
            'pushq.artifact_piece(uuid, int), pushq.read_artifact(uuid, text), '
            'pushq.forget_drafts(), pushq.forget_artifacts(uuid, int), pushq.forget_artifact_bytes() to %s', its_role);
        -- For pushq.spent_artifact_days(), and for lists.
        execute format('grant select on pushq.artifacts, pushq.artifact_drafts to %s', its_role);
    end loop;
end
$$;


-- Tenants --------------------------------------------------------------------------------------------------------

create or replace function pushq.tables_of_tenants() returns table (name text, index_columns text)
language sql immutable parallel safe
begin atomic
    values ('jobs', 'tenant_id, enqueued_at'), ('job_events', 'tenant_id, id'), ('artifacts', 'tenant_id, id');
end;

do $$
begin
    execute replace(
        replace(
            pg_get_functiondef('pushq.grant_to_tenants()'::regprocedure),
            'pushq.note(uuid, jsonb)',
            'pushq.note(uuid, jsonb), pushq.artifact_piece(uuid, int), pushq.read_artifact(uuid, text)'),
        'grant select on pushq.migrations to pushq_tenant;',
        E'-- Without token, by which a worker holds its job.\n'
        '    grant select (id, job_id, tenant_id, attempt, name, content_type, size, sha256, pieces, created_at)\n'
        '        on pushq.artifacts to pushq_tenant;\n'
        '    grant select on pushq.migrations to pushq_tenant;');
    -- Artifacts last of all, when no job of the tenant's is left that would write one.
    execute replace(
        pg_get_functiondef('pushq.delete_tenant(text, int)'::regprocedure),
        'return case when deleted > 0 then deleted else events end;',
        'return case when deleted > 0 then deleted when events > 0 then events '
        'else pushq.forget_artifacts_of(delete_tenant.tenant, delete_tenant.most) end;');
    if pushq.is_separated() and to_regrole('pushq_tenant') is not null then
        perform pushq.separate_tenants();
    end if;
end
$$;
