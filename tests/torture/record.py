"""The record of a battery: one run a line, so that it can take several sittings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.torture.run import Ended


class Record:
    """Without a file it keeps nothing."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lines = file.read_text().splitlines() if file and file.is_file() else []

    @property
    def next_seed(self) -> int:
        """The one after the highest that has been run with nothing planted."""
        return 1 + max((int(run["seed"]) for run in self._runs if not run["planted"]), default=0)

    @property
    def _runs(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines if line.endswith("}")]  # the last may have been cut off

    def append(self, ended: Ended) -> None:
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a") as writable:
                writable.write(json.dumps(ended.as_dict()) + "\n")
