"""What other people make of pushq's tables: publications, triggers, keys, views, rights that they take away."""

from __future__ import annotations

from tests.support.jobs import Connection

LEAVES = """
    select relname
    from pg_class
    where relnamespace = 'pushq'::regnamespace and relkind = 'r'
    order by relname
"""


async def test_every_table_may_be_changed_under_a_publication_for_all_tables(connection: Connection) -> None:
    """As for an upgrade by replication. PostgreSQL looks whether a table may be changed before it sees a row."""
    await connection.execute("set client_min_messages = error; create publication everything for all tables")
    tables = [row["relname"] for row in await connection.fetch(LEAVES)]
    assert {"jobs_unfinished", "tally_log", "days"} < set(tables)
    for table in [*tables, "jobs"]:
        column = await connection.fetchval(
            "select quote_ident(attname) from pg_attribute where attrelid = $1::regclass and attnum = 1",
            f"pushq.{table}",
        )
        await connection.execute(f"update pushq.{table} set {column} = {column} where tableoid = 0")
        await connection.execute(f"delete from pushq.{table} where tableoid = 0")
