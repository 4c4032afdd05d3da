-- Pauses webhook $1, unless its URL is no longer $2: the receiver at that URL has answered 410 Gone.
update pushq.webhooks
set paused_at = now()
where id = $1 and url = $2 and paused_at is null
returning id
