"""The record of a battery: one run a line, so that it can take several sittings, and what version each run tried."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from tests.support.supervisors import ROOT

TRIED = ("pushq", "migrations", "tests")
"""What a run tries, and with what. A record is none of it."""

Line = Mapping[str, Any]
"""A run, as its battery's Ended has it, and its version: the commit, with a plus where it had been changed since."""


class Record:
    """Runs in the order in which they ended. Without a file it forgets them at the end."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = Lock()
        text = file.read_text() if file and file.is_file() else ""
        self._lines: list[Line] = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        self._is_cut_off = bool(text) and not text.endswith("\n")

    @property
    def runs(self) -> Sequence[Line]:
        return self._lines

    def append(self, run: Line) -> None:
        """Raises OSError where the file cannot be written."""
        line = {**run, "version": version()}
        with self._lock:
            self._lines.append(line)
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a") as writable:
                    writable.write("\n" * self._is_cut_off + json.dumps(line) + "\n")
                self._is_cut_off = False


@cache
def version() -> str | None:
    """None: this is no checkout."""
    try:
        commit, changes = _git("rev-parse", "--short=7", "HEAD"), _git("status", "--porcelain", "--", *TRIED)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changes)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def spans(numbers: Sequence[int]) -> str:
    """As `1 to 3, 5`."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join(" to ".join(map(str, span)) for span in found)
