-- Whether the name $1 has a rule as a resource, or a task needs it, or an unfinished job does, of $2 queued ones that are looked at.
select
    exists (select from pushq.resources where name = $1)
    or exists (select from pushq.tasks where needs ? $1)
    or exists (select from pushq.held() where name = $1)
    or exists (
        select
        from (
            select needs from pushq.jobs_unfinished where status = 'queued' and apart in ('lane', 'fair') limit $2
        ) as looked
        where looked.needs ? $1
    ) as is_resource
