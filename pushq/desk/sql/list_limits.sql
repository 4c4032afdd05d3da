-- The first $1 names by name that have a rule, or that jobs hold or wait for under the rule of a kind or by default. has_rule: the
-- name has a rule of its own. capacity, rate: null for any. held, free: units; null for the rule of a kind, such as key:*, and free
-- also where any number may be held. waiting: queued jobs that need the name, of $2 with needs that are looked at; are_all: there are
-- no more. next_token_at: when the rate next allows a unit, or the last day that Python knows, but for one; null: now, or there is no
-- rate.
with waiting as materialized (
    select need.key as name, sum(alike.jobs)::int as jobs
    from (
        select looked.needs, count(*) as jobs
        from (
            select needs from pushq.jobs_unfinished where status = 'queued' and apart in ('lane', 'fair') limit $2
        ) as looked
        group by looked.needs
    ) as alike
    cross join lateral jsonb_object_keys(alike.needs) as need (key)
    group by need.key
),
held as materialized (
    select name, units from pushq.held()
),
own as materialized (
    select name from pushq.resources
    union all
    select 'queue:' || name from pushq.queues where capacity is not null or rate is not null
),
named as materialized (
    select name
    from (select name from own union select name from held union select name from waiting) as every
    order by name
    limit $1
)
select
    named.name,
    exists (select from own where own.name = named.name) as has_rule,
    rule.capacity,
    case when named.name !~ '^(key|tenant|task|affinity):\*$' then coalesce(held.units, 0) end as held,
    case when named.name !~ '^(key|tenant|task|affinity):\*$' and free.capacity_left is not null
        then greatest(free.capacity_left, 0) end as free,
    rule.rate,
    case when rule.rate is not null then rule.burst end as burst,
    case when named.name !~ '^(key|tenant|task|affinity):\*$' then coalesce(waiting.jobs, 0) end as waiting,
    (
        select count(*) < $2
        from (select from pushq.jobs_unfinished where status = 'queued' and apart in ('lane', 'fair') limit $2) as looked
    ) as are_all,
    case when free.rate * extract(epoch from free.whole_at - clock_timestamp()) > free.burst - 1
        then least(pushq.whole_for(free.whole_at, free.burst - 1, free.rate), '9999-12-30 00:00:00 UTC') end as next_token_at
from named
join pushq.rules(array(select name from named)) as rule on rule.name = named.name
left join pushq.free(array(select name from named)) as free on free.name = named.name
left join held on held.name = named.name
left join waiting on waiting.name = named.name
where rule.capacity is not null or rule.rate is not null or exists (select from own where own.name = named.name)
order by named.name
