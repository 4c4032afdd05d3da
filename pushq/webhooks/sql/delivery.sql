-- What a delivery needs that tells of job $1 of tenant $2 under the number $4, to webhook $3, or to the job's own URL if $3 is null.
-- url, secrets, body, is_paused: of the webhook, null if the tenant has none of the id. earlier: the deliveries of the same job and
-- receiver with smaller numbers that are not over, 100 at most. due_in: seconds until the first of them is due, null if none waits
-- for a time. now: the time of the database, in seconds. Each branch has one plan, by the index of keys.
with mine as (
    select keys, keys || lpad($4::bigint::text, 19, '0') as key
    from pushq.deliveries_of($1::uuid, coalesce($3::uuid::text, 'url')) as keys
),
earlier as materialized (
    (
        select job.id, job.status, job.run_at, job.unique_key
        from mine
        cross join pushq.jobs_unfinished as job
        where job.tenant_id = $2::text and job.unique_key >= mine.keys and job.unique_key < mine.key
        and starts_with(job.unique_key, mine.keys) and job.queue = 'pushq.webhooks'
        order by job.unique_key
        limit 100
    )
    union all
    (
        select job.id, job.status, job.run_at, job.unique_key
        from mine
        cross join pushq.jobs_unfinished as job
        where $2::text is null and job.tenant_id is null and job.unique_key >= mine.keys and job.unique_key < mine.key
        and starts_with(job.unique_key, mine.keys) and job.queue = 'pushq.webhooks'
        order by job.unique_key
        limit 100
    )
)
select
    webhook.url, webhook.secrets, webhook.body, webhook.paused_at is not null as is_paused,
    array(select id from earlier order by unique_key) as earlier,
    extract(epoch from (
        select run_at from earlier where status = 'queued' and run_at > now() order by unique_key limit 1
    ) - now())::float8 as due_in,
    extract(epoch from clock_timestamp())::bigint as now
from (select) as always
left join pushq.webhooks as webhook on webhook.id = $3::uuid and (webhook.tenant_id is null or webhook.tenant_id = $2::text)
