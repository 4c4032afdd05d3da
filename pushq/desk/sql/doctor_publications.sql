-- The publications that make PostgreSQL refuse updates or deletes of pushq's tables: they publish these, and the table has no
-- replica identity, or the publication has a list of columns or a filter of rows. tables: up to five.
select
    publication.pubname::text as publication,
    array_to_string((array_agg(distinct listed.tablename::text order by listed.tablename::text))[:5], ', ') as tables
from pg_publication as publication
join pg_publication_tables as listed on listed.pubname = publication.pubname and listed.schemaname = 'pushq'
join pg_class as class on class.relnamespace = 'pushq'::regnamespace and class.relname = listed.tablename
where (publication.pubupdate or publication.pubdelete)
and class.relkind = 'r'
and (
    class.relreplident = 'n'
    or (class.relreplident = 'd' and not exists (
        select from pg_index where indrelid = class.oid and indisprimary and indisvalid))
    or listed.rowfilter is not null
    or exists (
        select from pg_publication_rel where prpubid = publication.oid and prrelid = class.oid and prattrs is not null)
)
group by publication.pubname
order by publication.pubname
