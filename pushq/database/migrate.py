"""Brings a database's schema to the state that this program needs, by the files of migrations/ in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import anyio

from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.database.url import describe
from pushq.errors import RowsHidden, SchemaError, SettingsError, StatementRolledBack, UnexpectedState

LOCK = 0x70757368
"""The advisory lock by which migrators take turns: the same in every version of pushq."""
_DEADLINE = 600.0
"""Seconds for a migration, and for the wait for other migrators."""
_LOCK_TIMEOUT = 2.0
"""Seconds that a migration waits for a lock of a table. Sessions that ask for the table later wait as long."""
_BREATHER = 1.0
"""Seconds until a migration asks for the lock again."""
PATIENCE = 5.0
"""Seconds that a migrator waits for a session that holds the lock and cannot be a migrator."""


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str


@cache
def migrations() -> tuple[Migration, ...]:
    """The program's migrations in order, from the installed package or the checkout."""
    found = sorted(
        (int(match[1]), match[0].removesuffix(".sql"), file.read_text())
        for file in _directory().iterdir()
        if (match := re.fullmatch(r"(\d{4})_\w+\.sql", file.name))
    )
    return tuple(Migration(*one) for one in found)


def _directory() -> Path:
    installed = Path(__file__).parents[1] / "migrations"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "migrations"


async def migrate(url: str | None) -> list[str]:
    """Applies the missing migrations, each in a transaction of its own. Returns the names of the applied migrations.

    Any number of migrators may run at once. Migrators take turns by an advisory lock, and later ones find nothing to
    do. Raises SchemaError when the schema is newer than this program or a migration fails, SettingsError behind a
    transaction pooler, DatabaseAway and DatabaseRefused.
    """
    settings = {"enable_seqscan": "on", "lock_timeout": f"{_LOCK_TIMEOUT:g}s"}
    session = Session(url, "pushq migrate", deadline=_DEADLINE, settings=settings)
    try:
        await session.fetch("select 1")
        if session.is_pooled:
            raise SettingsError(
                f"{describe(url)} is reached through a transaction pooler, which cannot keep migrators apart; "
                "give a direct connection in PUSHQ_LISTEN_DATABASE_URL."
            )
        await _take_turn(session, url)
        return [migration.name for migration in await _missing(session, url) if await _apply(session, migration)]
    finally:
        await session.close()  # releases the lock as well


async def _take_turn(session: Session, url: str | None) -> None:
    """Waits while others migrate. Any role may take the lock, so a holder that cannot migrate is reported soon."""
    asked_at = anyio.current_time()
    while not await _is_our_turn(session):
        waited = anyio.current_time() - asked_at
        squatters = await session.fetch(statement("migrate_squatters"), LOCK) if waited > PATIENCE else []
        if squatters:
            role, pid = squatters[0]["role"], squatters[0]["pid"]
            raise SchemaError(
                f"{describe(url)}: role {role!r} may not migrate, and holds the lock by which migrators take turns; "
                f"end its session with `select pg_terminate_backend({pid})`."
            )
        if waited > _DEADLINE:
            raise SchemaError(f"{describe(url)}: somebody else has been migrating for more than {_DEADLINE:g} s.")
        await anyio.sleep(0.1)


async def _is_our_turn(session: Session) -> bool:
    (row,) = await session.fetch("select pg_try_advisory_lock($1) as is_ours", LOCK)
    return bool(row["is_ours"])


async def repair(url: str | None) -> list[str]:
    """Puts back lost rows that belong to the schema. Returns a phrase for each row or day that was made.

    A dump of the schema alone has no rows, and a test suite may empty every table. Raises like migrate.
    """
    session = Session(url, "pushq migrate", settings={"enable_seqscan": "on"})
    try:
        await refuse_hidden(session, url)
        logged = {row["version"] for row in await session.fetch("select version from pushq.migrations")}
        lost = [migration for migration in migrations() if migration.version not in logged]
        for migration in lost:
            await session.fetch(statement("migrate_log"), migration.version, migration.name)
        days = await session.fetch(statement("make_days")) if await _may_make_days(session) else []
        return [f"the row of {migration.name}" for migration in lost] + [f"day {row['day']}" for row in days]
    finally:
        await session.close()


async def _may_make_days(session: Session) -> bool:
    (row,) = await session.fetch("select has_function_privilege('pushq.make_days(int)', 'execute') as may")
    return bool(row["may"])


async def missing(url: str | None) -> list[str]:
    """The names of the migrations that the database lacks. Raises like migrate."""
    session = Session(url, "pushq", settings={"enable_seqscan": "on"})
    try:
        return [migration.name for migration in await _missing(session, url)]
    finally:
        await session.close()


async def check_schema(url: str | None) -> None:
    """Raises SchemaError when the schema is not the one that this program needs, or rows are hidden from the role.

    Otherwise raises like migrate.
    """
    session = Session(url, "pushq", settings={"enable_seqscan": "on"})
    try:
        names = [migration.name for migration in await _missing(session, url)]
        if names:
            what = "has no pushq schema" if len(names) == len(migrations()) else f"lacks {', '.join(names)}"
            raise SchemaError(f"{describe(url)} {what}; run `pushq migrate`.")
        await refuse_hidden(session, url)
    finally:
        await session.close()


async def refuse_hidden(session: Session, url: str | None) -> None:
    """Raises RowsHidden if row-level security hides tables. Some hosts switch it on for each new table."""
    if rows := await session.fetch(statement("hidden_tables")):
        names = ", ".join(row["name"] for row in rows)
        raise RowsHidden(
            f"{describe(url)} hides the rows of {names} from this role by row-level security: no policy is for the "
            "role. As the owner, write a policy, or run what `pushq migrate --roles` prints, which switches row-level "
            "security off where a table has no policy."
        )


async def _missing(session: Session, url: str | None) -> list[Migration]:
    await _refuse_unfit(session, url)
    await _refuse_foreign(session, url)
    applied = await _applied(session)
    known = {migration.version for migration in migrations()}
    if newer := applied - known:
        raise SchemaError(
            f"{describe(url)} has schema version {max(newer)}, and this pushq knows {max(known)}; upgrade pushq."
        )
    return [migration for migration in migrations() if migration.version not in applied]


async def _applied(session: Session) -> set[int]:
    """The applied versions, by the rows and by the schema itself, since rows may be lost or hidden."""
    (there,) = await session.fetch(
        "select to_regclass('pushq.migrations') is not null as log, "
        "to_regprocedure('pushq.schema_version()') is not null as version"
    )
    logged = await session.fetch("select version from pushq.migrations") if there["log"] else []
    newest = await session.fetch("select pushq.schema_version() as version") if there["version"] else []
    return {row["version"] for row in logged} | {version for row in newest for version in range(1, row["version"] + 1)}


async def _refuse_unfit(session: Session, url: str | None) -> None:
    (server,) = await session.fetch(
        "select current_setting('server_version_num')::int as version, current_setting('server_encoding') as encoding"
    )
    if server["version"] < 150000:
        raise SchemaError(f"{describe(url)} is PostgreSQL {server['version'] // 10000}; pushq needs 15 or newer.")
    if server["encoding"] != "UTF8":  # no other encoding stores every text
        raise SchemaError(
            f"{describe(url)} is encoded in {server['encoding']}; pushq needs UTF8. "
            "Make a UTF8 database with `create database … encoding 'UTF8' template template0`."
        )


async def _refuse_foreign(session: Session, url: str | None) -> None:
    (schema,) = await session.fetch(statement("foreign_schema"))
    if schema["is_foreign"]:
        raise SchemaError(
            f"{describe(url)} has a schema named pushq that pushq did not make; rename that schema, or give pushq "
            "another database."
        )


async def _apply(session: Session, migration: Migration) -> bool:
    """Applies one migration. Waits for locked tables in short tries, since other sessions queue behind each wait.

    A deadlock with a running pool, which may lock tables in another order, is tried again as well.
    """
    began_at = anyio.current_time()
    while True:
        try:
            await session.execute_alone(migration.sql)  # several statements in one message are one transaction
        except UnexpectedState as error:
            what = error.__cause__ or error  # with the DETAIL, which can show no rows of users yet
            raise SchemaError(f"Migration {migration.name} failed, and nothing of it was kept: {what}.") from error
        except StatementRolledBack:
            if anyio.current_time() - began_at > _DEADLINE:
                raise
            await anyio.sleep(_BREATHER)
        else:
            return True
