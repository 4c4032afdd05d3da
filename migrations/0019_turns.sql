-- Of two sweepers in one day, the second leaves the day to the first at once: `on conflict` would wait for a row that the first has
-- locked.

insert into pushq.migrations (version, name) values (19, '0019_turns');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 19;

do $$
begin
    execute replace(
        pg_get_functiondef('pushq.purge_day(date, interval, int, int)'::regprocedure),
        'insert into pushq.purges (day, rules) values (purge_day.the_day, wanted.rules) on conflict do nothing;',
        $new$insert into pushq.purges (day, rules)
    select purge_day.the_day, wanted.rules
    where not exists (select from pushq.purges as known where known.day = purge_day.the_day)
    on conflict do nothing;$new$);
end
$$;
