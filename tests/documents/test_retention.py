"""docs/how-to/retention.md: what the page shows runs as it stands."""

from __future__ import annotations

import re
import shlex

from tests.support.commands import invoke
from tests.support.jobs import Connection
from tests.support.pages import blocks, commands
from tests.support.supervisors import ROOT

TEXT = (ROOT / "docs" / "how-to" / "retention.md").read_text()
RULES = "select name, keep::text, keep_failed::text from pushq.queues where keep is not null or keep_failed is not null"


async def rules(connection: Connection) -> list[tuple[str, str, str]]:
    return [tuple(row) for row in await connection.fetch(f"{RULES} order by name")]


async def test_the_commands_and_the_functions_do_the_same(database_url: str, connection: Connection) -> None:
    (typed,), (statements,) = commands(TEXT), blocks("sql", TEXT)
    seen = []
    for line in typed.splitlines():
        ended = invoke(*shlex.split(line)[1:], url=database_url)
        said = re.sub(r"pushq: No supervisor has served queue .* yet\.\n", "", ended.stderr)
        assert (ended.exit_code, said) == (0, ""), line
        seen.append(await rules(connection))
    await connection.execute("delete from pushq.queues")
    for statement, expected in zip(statements.strip().splitlines(), seen, strict=True):
        await connection.execute(statement)
        assert await rules(connection) == expected
    assert seen[1] == [("*", None, "90 days"), ("mail", "02:00:00", "30 days")]
