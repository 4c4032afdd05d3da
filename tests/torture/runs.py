"""The handlers' log, read while it is written: a line at the begin of a run, and one at its end."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

from tests.torture.history import Run

Key: TypeAlias = tuple[str, int, int, float]


class RunsLog:
    """All hosts' handlers write into one file, a line by one write."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._read_to = 0
        self._runs: dict[Key, Run] = {}
        self._until: dict[Key, float] = {}  # when a run that has not ended means to
        self._heard = set[int]()  # the processes
        self._begun = set[UUID]()  # the jobs
        self._clocks: dict[int, float] = {}  # by how much a host's wall clock was ahead of the monotonic one

    def runs(self) -> tuple[Run, ...]:
        """So far."""
        self._read()
        return tuple(self._runs.values())

    def have_run(self, pids: Collection[int]) -> bool:
        """Whether one of these processes has run anything."""
        self._read()
        return not self._heard.isdisjoint(pids)

    def has_begun(self, job: UUID) -> bool:
        self._read()
        return job in self._begun

    def longest_left(self, pids: Collection[int]) -> float:
        """For how many more seconds a run in one of these processes means to go on; 0 if there is none."""
        self._read()
        left = (until - time.monotonic() for (_, _, pid, _), until in self._until.items() if pid in pids)
        return max(left, default=0.0)

    def goes_by(self, host: int, step: float) -> bool:
        """Whether the host's last run began by a clock that is so many seconds ahead of ours."""
        self._read()
        ours = time.time() - time.monotonic()
        return self._clocks.get(host, ours) - ours > step / 2

    def _read(self) -> None:
        if not self.file.exists():
            return
        with self.file.open("rb") as log:
            log.seek(self._read_to)
            for line in log:
                if not line.endswith(b"\n"):
                    return  # the rest of it is yet to be written
                self._read_to += len(line)
                self._note(json.loads(line))

    def _note(self, said: dict[str, Any]) -> None:
        key = said["job"], said["attempt"], said["pid"], said["began_at"]
        if "ended_at" in said:
            self._runs[key] = replace(
                self._runs[key], ended_at=said["ended_at"], returned=said["returned"], files=said["files"]
            )
            del self._until[key]
            return
        self._runs[key] = Run(
            job=UUID(said["job"]),
            attempt=said["attempt"],
            host=said["host"],
            pid=said["pid"],
            began_at=said["began_at"],
            ended_at=None,
            token=UUID(said["token"]),
        )
        self._until[key] = said["began_at"] + said["lasts"]
        self._heard.add(said["pid"])
        self._begun.add(UUID(said["job"]))
        self._clocks[said["host"]] = said["wall"] - said["began_at"]
