"""Compares a database's schema with the schema that the migrations make: for `pushq migrate --check`.

schema.txt holds the output of describe_schema.sql for the migrations and the roles. After a change of either, run
`python -m tests.migrations.schema > pushq/database/schema.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import TypeAlias

from pushq.database.migrate import missing
from pushq.database.roles import ROLES, Roles
from pushq.database.session import Session
from pushq.database.statements import statement

Parts: TypeAlias = Mapping[tuple[str, str], str]
"""(kind, name) → definition."""

_HOW = "`pushq migrate --sql` prints how it is made."
_ROLES = "as the owner run what `pushq migrate --roles` prints"
# By kind of fault: the predicate of a sentence, with the names of parts, and the remedy.
_SENTENCES = {
    "lacks": f"lacks {{}}; {_HOW}",
    "differs": f"has another {{}} than the migrations make; {_HOW}",
    "own": "has columns of your own, whose values are lost when a job finishes: {}; keep such values in your own "
    "table, by the job's id, or let the column be generated.",
    "right": f"lacks rights of the roles: {{}}; {_ROLES}.",
    "open": f"lets everybody do too much: {{}}; revoke these rights from public, or {_ROLES}.",
    "tenants": "keeps tenants apart only by half: {}; as the owner run `select pushq.separate_tenants()`.",
    "tenant": "has roles in pushq.tenant_roles that policies do not bound: {}; each must exist under this name, be a "
    "member of pushq_tenant, and be neither a superuser nor have bypassrls.",
    "loose": "has members of pushq_tenant that reach the jobs of all tenants by another right: {}; revoke "
    "pushq_worker, pushq_observer, pushq_admin and the like from each.",
    "hidden": "hides the rows of {} by row-level security without a policy; "
    f"{_ROLES}, which disables row-level security there.",
    "owner": "has parts with another owner than the table of jobs: {}; `alter … owner to` its owner.",
    "day": "has days without an index by which their jobs are found: {}; `create index on` each `(id)`.",
    "events": "has days that cannot take events: {}; run `pushq migrate`, which makes the missing partitions of "
    "pushq.job_events, and attach those that were detached.",
    "artifacts": "has days that cannot take artifacts: {}; run `pushq migrate`, which makes the missing partitions of "
    "pushq.artifact_pieces, and attach those that were detached.",
    "row": "has lost rows that belong to the schema: {}; run `pushq migrate`.",
}
_SHOWN = 8


async def faults(url: str | None) -> list[str]:
    """The faults of the schema, each as a predicate that names the remedy. Empty: the schema is as needed.

    Raises like migrate.
    """
    if names := await missing(url):
        return [f"lacks {', '.join(names)}; run `pushq migrate`."]
    session = Session(url, "pushq", settings={"enable_seqscan": "on", "enable_hashjoin": "on"})
    try:
        return await faults_seen_by(session)
    finally:
        await session.close()


async def faults_seen_by(session: Session, roles: Roles = ROLES) -> list[str]:
    found = list(compare(wanted(), await describe(session, roles)))
    if not any(fault == "lacks" for fault, _ in found):  # else schema_faults.sql may meet a missing part
        found += [(row["kind"], row["name"]) for row in await session.fetch(statement("schema_faults"))]
    by_fault = {fault: [name for kind, name in found if kind == fault] for fault in _SENTENCES}
    return [_SENTENCES[fault].format(_some(names)) for fault, names in by_fault.items() if names]


async def describe(session: Session, roles: Roles) -> Parts:
    names = [roles.producer, roles.worker, roles.observer, roles.admin]
    rows = await session.fetch(statement("describe_schema"), names)
    return {(row["kind"], row["name"]): row["definition"] for row in rows}


@cache
def wanted() -> Parts:
    lines = (files("pushq.database") / "schema.txt").read_text().splitlines()
    return {(kind, name): definition for kind, name, definition in (line.split("\t") for line in lines)}


def compare(wanted: Parts, there: Parts) -> Iterator[tuple[str, str]]:
    """The faults of `there`, as (kind of fault, name). Harmless additions of users are no faults."""
    lost = {name for kind, name in wanted if kind != "right" and (kind, name) not in there}
    changed = {name for (kind, name), found in there.items() if kind != "right" and wanted.get((kind, name)) != found}
    for (kind, name), definition in wanted.items():
        if kind == "right":
            if there.get((kind, name)) != definition and _is_used(name, there) and _object(name) not in lost | changed:
                yield "right", name
        elif name in lost:
            if name.partition(".")[0] not in lost - {name}:  # a lost table is named, its lost columns are not
                yield "lacks", f"{kind} {name}"
        elif name in changed:
            yield "differs", f"{kind} {name}{_how(definition, there[kind, name])}"
    yield from _own(there, wanted)


def _own(there: Parts, wanted: Parts) -> Iterator[tuple[str, str]]:
    for kind, name in [part for part in there if part not in wanted]:
        if kind == "column" and name.startswith("jobs.") and " generated " not in there[kind, name]:
            yield "own", name.removeprefix("jobs.")
        elif kind == "right" and name.startswith("everybody: ") and _is_too_much(name, wanted):
            yield "open", name.removeprefix("everybody: ")


_CALLED_BY_INSERTS = {"note_insert(uuid)"}
"""Triggers call these with the rights of whoever inserts a job."""


def _is_used(right: str, there: Parts) -> bool:
    """Whether the role of a right is used in this database. Roles belong to the whole server."""
    role = right.partition(":")[0]
    return role == "everybody" or any(kind == "right" and name.startswith(f"{role}:") for kind, name in there)


def _is_too_much(right: str, wanted: Parts) -> bool:
    """Whether everybody should not have the right. To execute a function with the caller's rights is harmless."""
    return ": execute " not in right or (
        "security definer" in wanted.get(("function", _object(right)), "") and _object(right) not in _CALLED_BY_INSERTS
    )


def _object(right: str) -> str:
    return right.partition(" on ")[2]


def _how(wanted: str, found: str) -> str:
    """The visible difference, in brackets. Checksums are left out."""
    shown = found.partition("sum ")[0].strip()
    return "" if shown == wanted.partition("sum ")[0].strip() else f" ({shown or 'plain'})"


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
