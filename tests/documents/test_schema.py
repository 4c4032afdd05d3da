"""docs/reference/jobs.md names every column and rule of pushq.jobs, and sql.md every function of the schema."""

from __future__ import annotations

import re

from tests.documents.rows import REFERENCE, rows
from tests.support.jobs import Connection
from tests.support.supervisors import ROOT

SCHEMA = [line.split("\t") for line in (ROOT / "pushq" / "database" / "schema.txt").read_text().splitlines()]
JOBS = rows(REFERENCE / "jobs.md")


def named(kind: str, pattern: str) -> dict[str, str]:
    """The definitions of the schema's parts of a kind, by what the pattern finds in each name."""
    found = ((re.fullmatch(pattern, part[1]), part[2]) for part in SCHEMA if part[0] == kind)
    return {name[1]: definition for name, definition in found if name}


def test_the_page_names_every_column_with_its_type() -> None:
    columns = named("column", r"jobs\.(\w+)")
    assert columns.keys() == {name for name in JOBS if not name.startswith(("jobs_", "pushq."))}
    for name, definition in columns.items():
        assert JOBS[name][0] == _kind(definition), name


def test_a_producer_may_write_the_columns_that_the_page_gives_to_producers() -> None:
    writable = named("right", r"producer: insert on jobs\.(\w+)")
    assert writable.keys() == {name for name, cells in JOBS.items() if len(cells) == 3}


def test_the_page_names_every_constraint() -> None:
    text = "".join(
        (ROOT / "migrations" / name).read_text()
        for name in ("0001_jobs.sql", "0017_columns.sql", "0022_webhooks.sql", "0023_needs.sql")
    )
    rules = set(
        re.findall(r"(?:then '|return '|broken_rule := '|constraint |constraint = '|unique index )(jobs_\w+)", text)
    )
    assert rules == {name for name in JOBS if name.startswith("jobs_")}


def test_the_schema_has_no_views() -> None:
    assert "The schema has no views." in (REFERENCE / "jobs.md").read_text()
    assert [part for part in SCHEMA if "view" in part[0]] == []


def test_the_page_of_functions_and_tables_names_all() -> None:
    page = (REFERENCE / "sql.md").read_text()
    names = named("function", r"(\w+)\(.*").keys() | (named("table", r"(\w+)").keys() - {"jobs_unfinished"})
    assert {name for name in names if not re.search(rf"`(pushq\.)?{name}[`(.]", page)} == set()


async def test_the_signatures_of_the_page_are_those_of_the_functions(connection: Connection) -> None:
    """Names, types, and which arguments have a default. PostgreSQL writes the defaults in other words."""
    shown = dict(re.findall(r"^\| `pushq\.(\w+)\((.*?)\)` \|", (REFERENCE / "sql.md").read_text(), re.MULTILINE))
    assert len(shown) > 20
    there = await connection.fetch(
        "select proname::text, pg_get_function_arguments(oid) from pg_proc where pronamespace = 'pushq'::regnamespace"
    )
    for name, arguments in shown.items():
        assert _signature(arguments) in [_signature(known) for other, known in there if other == name], name


def _signature(arguments: str) -> list[str]:
    known = arguments.lower().replace("timestamp with time zone", "timestamptz").replace("integer", "int")
    without_out = re.sub(r",? ?\bout .*", "", known)
    return re.findall(r"(?:^|, )(\w+ [\w\[\]]+(?: default)?)", without_out)


def test_the_page_names_every_column_of_the_tables_worth_reading() -> None:
    page = rows(REFERENCE / "sql.md")
    columns = named(
        "column",
        r"((?:supervisors|queues|tasks|resources|tenants|affinities|tenant_roles|artifacts|webhooks|schedules)\.\w+)",
    )
    assert columns.keys() == {name for name in page if re.fullmatch(r"\w+\.\w+", name)}
    for name, definition in columns.items():
        assert page[name][0] == _kind(definition), name


async def test_the_statements_of_the_pages_run_as_they_stand(connection: Connection) -> None:
    statements = [
        statement
        for page in sorted(REFERENCE.glob("*.md"))
        for statement in re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    assert len(statements) == 3
    for statement in statements:
        await connection.fetch(statement)


def _kind(definition: str) -> str:
    short = definition.replace("timestamp with time zone", "timestamptz").replace("double precision", "float8")
    return short.split()[0]
