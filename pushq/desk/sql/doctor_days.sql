-- The partitions of days. missing: days from today on, of the next $1, without a partition. overdue: days whose jobs are older than
-- $2 seconds, and than the longest keep of a queue, by two days and more, and are still there. undropped: days emptied more than a day ago whose partitions still exist.
select
    array(
        select day::text
        from (select (pushq.utc_today() + ahead) as day from generate_series(0, $1::int) as ahead) as wanted
        where not exists (
            select from pg_class
            where relnamespace = 'pushq'::regnamespace and relname = to_char(wanted.day, '"jobs_"YYYY_MM_DD'))
        order by day
    ) as missing,
    array(
        select day::text from pushq.days
        where retired_at is null
        and day < (now() - greatest($2::float8 * interval '1 second', (select longest from pushq.keep_rules()))) at time zone 'utc'
            - interval '2 days'
        order by day
    ) as overdue,
    array(
        select day::text from pushq.days where retired_at < now() - interval '1 day' order by day
    ) as undropped
