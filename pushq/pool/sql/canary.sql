-- Sends an empty notification on the channel $1, to our own listener, on the same condition as inserters ring: the canary
-- arrives only if the bell works from end to end. Returns whether the canary was sent.
with sent as materialized (
    select pg_notify($1, '') where pg_notification_queue_usage() < 0.5
)
select count(*) = 1 as was_sent from sent
