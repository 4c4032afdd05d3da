"""What a record of random faults comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from tests.support.record import Line, spans
from tests.torture.schedule import JOBS


def sound(runs: Iterable[Line]) -> list[Line]:
    """Those of full size with nothing planted; of a seed that was run again, the last."""
    return [*{run["seed"]: run for run in runs if not run["planted"] and run["jobs"] == JOBS}.values()]


def next_seed(runs: Iterable[Line]) -> int:
    """The one after the highest that has been run with nothing planted."""
    return 1 + max((int(run["seed"]) for run in sound(runs)), default=0)


def report(runs: Sequence[Line]) -> str:
    """A table in Markdown: seeds, jobs, violations and faults, of the runs that are not void. Void runs are counted."""
    all_of_them = sound(runs)
    kept = [run for run in all_of_them if not run["toothless"] or run["violations"]]
    void = [run for run in all_of_them if run not in kept]
    statuses, faults = (_sum(kept, what) for what in ("statuses", "faults"))
    bad = [run["seed"] for run in kept if run["violations"]]
    settled = [run["settled_after"] for run in kept if run["settled_after"] is not None] or [0.0]
    seeds = [run["seed"] for run in kept] or [0]
    rows = {
        "runs": f"{len(kept)}, with different seeds between {min(seeds)} and {max(seeds)}",
        "by version": _listed(Counter(str(run["version"]) for run in kept)),
        "with violations": f"{len(bad)}" + (f": seeds {spans(bad)}" if bad else ""),
        "earlier runs of these seeds": _again(runs),
        "other seeds, all void, since a fault had no effect": f"{len(void)}",
        "jobs that ended": _listed(statuses),
        "runs of handlers": f"{sum(run['runs'] for run in kept):,}",
        "faults that had an effect": f"{sum(faults.values()):,}: {_listed(faults)}",
        "settled after the last fault": f"{median(settled):.1f} s, at most {max(settled):.1f} s",
        "time taken": f"{sum(run['seconds'] for run in kept) / 60:.0f} minutes",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _again(runs: Iterable[Line]) -> str:
    """Runs that do not count, because their seeds were run again: each with violations, and the others' number."""
    last = {id(run) for run in sound(runs)}
    earlier = [run for run in runs if not run["planted"] and run["jobs"] == JOBS and id(run) not in last]
    harmless = Counter(_verdict(run) for run in earlier if not run["violations"])
    bad = [f"seed {run['seed']} ({_verdict(run)}, {run['version']})" for run in earlier if run["violations"]]
    return ", ".join([*([_listed(harmless)] if harmless else []), *bad]) or "none"


def _verdict(run: Line) -> str:
    codes = sorted({violation["code"] for violation in run["violations"]})
    return " ".join(codes) or ("void" if run["toothless"] else "sound")


def _sum(runs: Iterable[Line], what: str) -> Counter[str]:
    return sum((Counter(run[what]) for run in runs), Counter())


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
