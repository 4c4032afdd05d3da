"""The record of a battery, one run a line, so that it can take several sittings; and the table that sums it up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any

from tests.torture_drain.run import Ended

Line = Mapping[str, Any]
"""A run, as Ended has it."""


class Record:
    """Runs by their seeds. Without a file it forgets them at the end."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = Lock()
        self.runs: dict[int, Line] = {}
        text = file.read_text() if file and file.is_file() else ""
        for line in text.splitlines():
            if line.endswith("}"):  # the last may have been cut off
                kept = json.loads(line)
                self.runs[kept["seed"]] = kept
        self._begins_anew = bool(text) and not text.endswith("\n")

    def append(self, ended: Ended) -> None:
        line = ended.as_dict()
        with self._lock:
            self.runs[ended.seed] = line
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a") as writable:
                    writable.write("\n" * self._begins_anew + json.dumps(line) + "\n")
                self._begins_anew = False


def table(runs: Iterable[Line]) -> str:
    """A line a situation, and one for all."""
    kept = list(runs)
    situations = list(dict.fromkeys(run["situation"] for run in kept))
    lines = [
        _line(situation, [run for run in kept if run["situation"] == situation]) for situation in sorted(situations)
    ]
    head = f"{'':46} runs  void  median  slowest  last begun  released  swept  broken"
    return "\n".join([head, *lines, _line("all", kept)])


def _line(name: str, runs: list[Line]) -> str:
    over = [run["over"] for run in runs] or [0.0]
    return (
        f"{name:46} {len(runs):4}  {sum(run['void'] for run in runs):4}  {median(over):6.2f}  {max(over):7.2f}"
        f"  {max((run['reaction'] for run in runs), default=0.0):10.2f}"
        f"  {sum(run['released'] for run in runs):8}  {sum(run['swept'] for run in runs):5}"
        f"  {sum(bool(run['violations']) for run in runs):6}"
    )


EXPLAINED = (
    "median, slowest: seconds from the end of the grace period, or from a second signal, to the end of the process; "
    "3 are allowed. last begun: seconds after the signal at which the last job began."
)
