-- The first thousand rules by name, of resources, queues and single tasks, tenants and keys, but not of kinds such as key:*: the
-- capacity, null for any, and how many units running jobs hold.
with named as materialized (
    select name
    from (
        select name from pushq.resources where name !~ '^(key|tenant|task|affinity):\*$'
        union all
        select 'queue:' || name from pushq.queues where capacity is not null or rate is not null
    ) as every
    order by name
    limit 1000
)
select rule.name, rule.capacity, coalesce(held.units, 0) as held
from pushq.rules(array(select name from named)) as rule
left join pushq.held() as held on held.name = rule.name
where exists (select from named)
order by rule.name
