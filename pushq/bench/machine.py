"""The machine of a benchmark, the CPU of its processes, and the noise on it: a short calibration before each round."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from pushq.bench.connection import Connection

SPINS = 400_000
COMMITS = 15
SLOW_SPIN = 1.25
"""Times the median."""
SLOW_COMMIT = 2.0
"""Times the median."""
TOLERATED = 0.2
"""Share of rounds, 0 to 1, that a slow calibration may precede."""


def describe_machine() -> dict[str, str]:
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "processor": _processor(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "asyncpg": version("asyncpg"),
        "pushq": version("pushq-pg"),
    }


def _processor() -> str:
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU of a process and of all that it has started and that lives, in user and system mode."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(int(child)) for child in children)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Seconds for a fixed piece of arithmetic, and for one commit of one row with its flush."""

    spin: float
    commit: float


async def calibrate(connection: Connection) -> Calibration:
    """Calibrates, for about 50 ms. The connection's role must be allowed to make a table."""
    return Calibration(_spin(), await _commit(connection))


def _spin() -> float:
    began = time.perf_counter()
    total = 0
    for one in range(SPINS):
        total += one & 7
    return time.perf_counter() - began


async def _commit(connection: Connection) -> float:
    await connection.execute("create table if not exists bench_commits (written int)")
    took = []
    for one in range(COMMITS):
        began = time.perf_counter()
        await connection.execute("insert into bench_commits values ($1)", one)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


@dataclass(slots=True)
class Noise:
    """The calibrations of a run."""

    calibrations: list[Calibration] = field(default_factory=list)

    @property
    def slow_rounds(self) -> int:
        """How many rounds a slow calibration preceded, compared with the median."""
        slow_spins = _slow([one.spin for one in self.calibrations], SLOW_SPIN)
        slow_commits = _slow([one.commit for one in self.calibrations], SLOW_COMMIT)
        return sum(spin or commit for spin, commit in zip(slow_spins, slow_commits, strict=True))

    @property
    def is_too_much(self) -> bool:
        return self.slow_rounds > TOLERATED * len(self.calibrations)

    def as_json(self) -> dict[str, object]:
        return {
            "rounds": len(self.calibrations),
            "slow_rounds": self.slow_rounds,
            "is_too_noisy": self.is_too_much,
            "spin_milliseconds": _milliseconds([one.spin for one in self.calibrations]),
            "commit_milliseconds": _milliseconds([one.commit for one in self.calibrations]),
        }

    def __str__(self) -> str:
        if not self.calibrations:
            return "no round was measured"
        spins, commits = ([getattr(one, name) for one in self.calibrations] for name in ("spin", "commit"))
        seen = f"calibrated before each of {len(self.calibrations)} rounds: arithmetic {_spread(spins)}, "
        seen += f"a commit {_spread(commits)}"
        if self.is_too_much:
            return f"TOO NOISY: slow before {self.slow_rounds} rounds; believe no figure, repeat it. {seen}"
        return f"quiet enough; {seen}"


def _slow(values: Sequence[float], factor: float) -> list[bool]:
    usual = statistics.median(values) if values else 0.0
    return [value > factor * usual for value in values]


def _milliseconds(values: Sequence[float]) -> list[float]:
    return [round(1000 * value, 3) for value in values]


def _spread(seconds: Sequence[float]) -> str:
    low, middle, high = (1000 * one for one in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{middle:.2f} ms ({low:.2f} - {high:.2f})"
