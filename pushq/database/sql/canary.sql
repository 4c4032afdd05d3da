-- Sends an empty notification on the channel $1, to our own listener: it arrives only if the bell works from end to end.
select pg_notify($1, '')
