-- Writes the schedules $2 that the code of supervisor $1 declares: crons $3, zones $4, intervals $5, tasks $6, payloads $7, queues $8, needs
-- $9, missed $10; payloads and needs as text. A row that says the same is not touched, and a pause stays. Rows are locked in order, so
-- that two supervisors that start together cannot deadlock.
with declared as (
    insert into pushq.schedules as schedule (name, cron, zone, every, task, payload, queue, needs, missed, declared_at)
    select
        given.name, given.cron, given.zone, make_interval(secs => extract(epoch from given.every)::float8), given.task,
        given.payload::jsonb, given.queue, given.needs::jsonb, given.missed, clock_timestamp()
    from unnest($2::text[], $3::text[], $4::text[], $5::interval[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[])
        as given (name, cron, zone, every, task, payload, queue, needs, missed)
    order by given.name collate "C"
    on conflict on constraint schedules_name_is_given_once_a_tenant do update
    set cron = excluded.cron, zone = excluded.zone, every = excluded.every, task = excluded.task, payload = excluded.payload,
        queue = excluded.queue, needs = excluded.needs, missed = excluded.missed,
        declared_at = coalesce(schedule.declared_at, excluded.declared_at)
    where schedule.declared_at is null
    or (
        schedule.cron, schedule.zone, schedule.every, schedule.task, schedule.payload, schedule.queue, schedule.needs,
        schedule.missed
    ) is distinct from (
        excluded.cron, excluded.zone, excluded.every, excluded.task, excluded.payload, excluded.queue, excluded.needs,
        excluded.missed)
)
update pushq.supervisors as host
set schedules = array(select distinct unnest(host.schedules || $2::text[]) order by 1)
where host.name = $1
