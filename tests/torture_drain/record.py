"""What a record of drains comes to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from tests.support.record import Line, spans


def by_seed(runs: Iterable[Line]) -> dict[int, Line]:
    """Of a seed that was run again, the last."""
    return {run["seed"]: run for run in runs}


def report(runs: Sequence[Line]) -> str:
    """A line a situation, and one for all."""
    kept = [*by_seed(runs).values()]
    situations = sorted({run["situation"] for run in kept})
    lines = [_line(situation, [run for run in kept if run["situation"] == situation]) for situation in situations]
    head = f"{'':46} runs  void  median  slowest  last begun  released  swept  broken"
    return "\n".join([head, *lines, _line("all", kept), _seeds(kept), EXPLAINED])


def _line(name: str, runs: list[Line]) -> str:
    over = [run["over"] for run in runs] or [0.0]
    return (
        f"{name:46} {len(runs):4}  {sum(run['void'] for run in runs):4}  {median(over):6.2f}  {max(over):7.2f}"
        f"  {max((run['reaction'] for run in runs), default=0.0):10.2f}"
        f"  {sum(run['released'] for run in runs):8}  {sum(run['swept'] for run in runs):5}"
        f"  {sum(bool(run['violations']) for run in runs):6}"
    )


def _seeds(runs: list[Line]) -> str:
    versions = sorted({str(run["version"]) for run in runs})
    return f"seeds {spans([run['seed'] for run in runs])}; version {', '.join(versions)}"


EXPLAINED = (
    "median, slowest: seconds from the end of the grace period, or from a second signal, to the end\n"
    "of the process; 3 are allowed. last begun: seconds after the signal at which the last job began."
)
