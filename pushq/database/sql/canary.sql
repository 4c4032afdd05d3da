-- Sends a notification to ourselves, on the channel $1: it comes back only if the bell works from end to end.
select pg_notify($1, '')
