"""The stage: seven queues and three supervisors, each with queues of its own and queues that it shares."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException

from tests.support.supervisors import RunningSupervisor, supervising


@dataclass(frozen=True, slots=True)
class Part:
    """What a supervisor is told to do; it has one pool."""

    queues: tuple[str, ...]
    concurrency: int

    @property
    def flags(self) -> list[str]:
        return [f"--concurrency={self.concurrency}", *(f"--queue={queue}" for queue in self.queues)]


PARTS = (Part(("amber", "birch", "cedar"), 2), Part(("cedar", "dune", "plum"), 3), Part(("fern", "beech", "amber"), 4))
"""amber and cedar have two pools, the others one; plum and beech share a gate all the same, since their hashes do."""
SAME_GATE = {"plum", "beech"}
QUEUES = tuple(dict.fromkeys(queue for part in PARTS for queue in part.queues))

# Never polls, and neither heartbeat nor sweeper is in the way of what is tested.
_SETTINGS = {"POLL_INTERVAL": "0", "HEARTBEAT_INTERVAL": "1", "LEASE": "10", "SWEEP_INTERVAL": "5"}


def rivals_of(queue: str) -> list[str]:
    """Queues of other pools whose gates are shut when the pools of this one get busy."""
    if queue in SAME_GATE:
        return sorted(SAME_GATE - {queue})
    served = {other for part in PARTS if queue in part.queues for other in part.queues}
    return sorted(other for other in served if not any(other in own_queues(part) for part in PARTS))


def own_queues(part: Part) -> list[str]:
    """Those that nobody else serves."""
    return [queue for queue in part.queues if not any(queue in other.queues for other in PARTS if other is not part)]


def workers_of(queue: str) -> int:
    """How many jobs it takes to keep every pool of a queue busy."""
    return sum(part.concurrency for part in PARTS if queue in part.queues)


class Supervisors:
    """One for each part; a new one when one has been stopped."""

    def __init__(self, url: str, planted: str | None) -> None:
        self._url = url
        self._settings = _SETTINGS | ({"TEST_PLANTED": planted} if planted else {})
        self._running: dict[Part, RunningSupervisor] = {}
        self._stacks: dict[Part, ExitStack] = {}
        self._figures: dict[int, Counter[str]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as ending:
            ending.callback(self._stop)
            for part in PARTS:
                self._start(part)
            for supervisor in self._running.values():
                supervisor.wait_ready()
            yield

    def __getitem__(self, part: Part) -> RunningSupervisor:
        return self._running[part]

    def part_of(self, name: str | None) -> Part | None:
        """Whose name it is, as rows have it: HOST-PID-HEX. None: nobody's who lives."""
        pid = int(name.split("-")[-2]) if name else None
        return next((part for part, supervisor in self._running.items() if supervisor.process.pid == pid), None)

    def are_ready(self) -> bool:
        return all(supervisor.get("/readyz")[0] == 200 for supervisor in self._running.values())

    def replace(self, part: Part) -> int:
        """SIGTERM, and a new one; the exit code of the old."""
        code = self[part].stop()
        self._stacks[part].close()
        self._start(part)
        return code

    def scrape(self) -> None:
        """Keeps the newest figures of each process: those of one that has ended still count."""
        for supervisor in self._running.values():
            with suppress(OSError, HTTPException):  # it is being replaced
                status, text = supervisor.get("/metrics")
                if status == 200:
                    self._figures[supervisor.process.pid] = _figures(text)

    @property
    def figures(self) -> Counter[str]:
        """Wake-ups by source, and notifications."""
        return sum(self._figures.values(), Counter[str]())

    def _stop(self) -> None:
        for stack in self._stacks.values():
            stack.close()

    def _start(self, part: Part) -> None:
        stack = self._stacks[part] = ExitStack()
        tasks = "tests.torture_bell.handlers:tasks"
        self._running[part] = stack.enter_context(
            supervising(self._url, *part.flags, tasks=tasks, ready=False, **self._settings)
        )


def _figures(metrics: str) -> Counter[str]:
    wakeups = re.findall(r'^pushq_wakeups_total\{source="(\w+)"\} (\S+)$', metrics, re.MULTILINE)
    heard = re.findall(r"^pushq_(notifications)_received_total (\S+)$", metrics, re.MULTILINE)
    return Counter({name: int(float(value)) for name, value in wakeups + heard})
