-- Tells $1, as finish.sql returned it, to those that wait for jobs.
select pushq.tell($1::text[])
