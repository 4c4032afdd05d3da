-- Sends an empty notification on the channel $1, to our own listener: it arrives only if the bell works from end to end. So
-- it is sent on the same condition as the bell is rung. Returns whether it was.
with sent as materialized (
    select pg_notify($1, '') where pg_notification_queue_usage() < 0.5
)
select count(*) = 1 as was_sent from sent
