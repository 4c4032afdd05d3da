"""What a torture came to: figures, and every violation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from tests.torture_bell.faults import Faults
from tests.torture_bell.inserters import Connection
from tests.torture_bell.ledger import Fate, Ledger
from tests.torture_bell.stage import Supervisors
from tests.torture_bell.stalls import Stalls
from tests.torture_bell.watch import LATE, Grace, Late, Watch

SHOWN = 20
"""Violations of a kind that are shown."""

ROWS = """
select id, status, attempt, extract(epoch from started_at)::float8 as started_at from pushq.jobs
where id = any($1::uuid[])
"""


@dataclass(slots=True)
class Report:
    """Durations in seconds unless they say ms. The violations stand at the end."""

    seed: int
    planted: str | None
    seconds: float
    inserted: dict[str, int]
    ended: dict[str, int]
    in_doubt: int
    rolled_back: int
    wakeups: dict[str, int]
    transitions: dict[str, int]
    looks: int
    pick_up_ms: dict[str, float]
    waits_over_100_ms: int
    stalls: dict[str, float]
    faults: dict[str, str]
    first_found_after: float | None
    late: list[Late] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    ghosts: list[str] = field(default_factory=list)
    unrecovered: list[str] = field(default_factory=list)

    @property
    def violations(self) -> int:
        return len(self.late) + len(self.lost) + len(self.ghosts) + len(self.unrecovered)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"violations": self.violations}

    def __str__(self) -> str:
        return "\n".join(_lines(self.as_dict()))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the parts of a run know at its end."""

    seed: int
    planted: str | None
    began_at: float
    ended_at: float
    ledger: Ledger
    supervisors: Supervisors
    watch: Watch
    faults: Faults
    grace: Grace
    stalls: Stalls


async def audit(connection: Connection, evidence: Evidence) -> Report:
    """Compares the table with what was promised, once nothing is left to run."""
    ledger, watch, stalls, faults = evidence.ledger, evidence.watch, evidence.stalls, evidence.faults
    rows = {row["id"]: row for row in await connection.fetch(ROWS, list(ledger.entries))}
    promised = ledger.of_fate(Fate.RUNS)
    late = sorted(watch.late.values(), key=lambda late: late.found_at)
    return Report(
        seed=evidence.seed,
        planted=evidence.planted,
        seconds=round(evidence.ended_at - evidence.began_at, 1),
        inserted=dict(ledger.by_kind),
        ended=_ends(rows, promised),
        in_doubt=len(ledger.of_fate(Fate.IN_DOUBT)),
        rolled_back=len(ledger.of_fate(Fate.NEVER)),
        wakeups=dict(evidence.supervisors.figures),
        transitions=dict(watch.transitions),
        looks=watch.looks,
        pick_up_ms=_percentiles(_pick_ups(rows, promised, evidence)),
        waits_over_100_ms=sum(seconds > LATE for seconds in watch.waits),
        stalls={"count": stalls.count, "longest": round(stalls.longest, 3), "total": round(stalls.total, 2)},
        faults={kind: f"{faults.bit[kind]} of {done} bit" for kind, done in faults.done.items()},
        first_found_after=round(late[0].found_at - evidence.began_at, 1) if late else None,
        late=late,
        lost=[_line(ledger, job) for job in promised if job not in rows or _is_unfinished(rows[job])],
        ghosts=[_line(ledger, job) for job in ledger.of_fate(Fate.NEVER) if job in rows],
        unrecovered=faults.unrecovered,
    )


def _is_unfinished(row: Any) -> bool:
    return row["status"] in ("queued", "running")


def _ends(rows: dict[UUID, Any], promised: list[UUID]) -> dict[str, int]:
    ends: dict[str, int] = {}
    for job in promised:
        end = rows[job]["status"] if job in rows else "gone"
        ends[end] = ends.get(end, 0) + 1
    return ends


def _pick_ups(rows: dict[UUID, Any], promised: list[UUID], evidence: Evidence) -> list[float]:
    """Of jobs that were run once, in a time without faults, and never seen to wait for a worker or a paused queue."""
    once = [(evidence.ledger.entries[job], rows[job]) for job in promised if job in rows and rows[job]["attempt"] == 1]
    return sorted(
        max(0.0, row["started_at"] - entry.due_at)
        for entry, row in once
        if entry.is_plain
        and row["id"] not in evidence.watch.crowded
        and not evidence.grace.covers(entry.due_at, row["started_at"])
    )


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    at = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "slowest": 1.0}
    return {"jobs": len(seconds)} | {
        name: round(1000 * seconds[min(len(seconds) - 1, int(share * len(seconds)))], 1) for name, share in at.items()
    }


def _line(ledger: Ledger, job: UUID) -> str:
    return f"{job} ({ledger.entries[job].kind}, {ledger.entries[job].queue})"


def _lines(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        label = f"{name.replace('_', ' '):20}"
        if isinstance(value, dict):
            yield f"{label} " + (", ".join(f"{key} {number}" for key, number in value.items()) or "none")
        elif isinstance(value, list):
            yield f"{label} {len(value)}"
            yield from (f"    {one}" for one in value[:SHOWN])
        else:
            yield f"{label} {value}"
