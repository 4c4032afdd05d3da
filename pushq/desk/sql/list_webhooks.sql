-- The first $1 webhooks, the newest first. Without their secrets, which a role that looks need not be able to read.
select id, tenant_id, queue, task, statuses, url, body, paused_at, created_at
from pushq.webhooks
order by id desc
limit $1
