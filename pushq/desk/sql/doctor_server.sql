-- The server that the doctor is shown.
select current_setting('server_version') as version, pg_is_in_recovery() as is_standby
