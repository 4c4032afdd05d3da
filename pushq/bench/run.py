"""A run of the benchmark: its rounds, what they measured, and the record from which a later run goes on."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import anyio

from pushq.bench.connection import Connection
from pushq.bench.figures import Figure, Measure, Sample, collect, number
from pushq.bench.ground import Ground
from pushq.bench.machine import Noise, calibrate


@dataclass(frozen=True, slots=True)
class Scope:
    """How much is measured. minutes: how long the horizon is pinned; scale: multiplies numbers of jobs and seconds."""

    rounds: int = 5
    is_long: bool = False
    minutes: float | None = None
    scale: float = 1.0

    def jobs(self, count: int) -> int:
        return max(20, round(count * self.scale))

    def seconds(self, seconds: float) -> float:
        return max(0.3, seconds * self.scale)


@dataclass(frozen=True, slots=True)
class Teller:
    """Who hears how far it is: `show` what is going on, `say` what a round has come to."""

    show: Callable[[str], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None


@dataclass(slots=True)
class Record:
    """Rounds in a file, one JSON object a line; without a file, nowhere. `done` is what an earlier run has left."""

    file: Path | None = None
    done: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)

    @classmethod
    def resumed(cls, file: Path) -> Record:
        lines = file.read_text().splitlines() if file.is_file() else []
        rounds = [json.loads(line) for line in lines if line.endswith("}")]  # the last may have been cut off
        return cls(file, {(one["stage"], one["round"]): [*map(Sample.from_json, one["samples"])] for one in rounds})

    def append(self, stage: str, round_number: int, samples: list[Sample]) -> None:
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            line = {"stage": stage, "round": round_number, "samples": [asdict(sample) for sample in samples]}
            with self.file.open("a") as writable:
                writable.write(json.dumps(line) + "\n")


class Run:
    """What a scenario is given. `connection` leads to a database that calibrations may write to."""

    def __init__(self, ground: Ground, connection: Connection, scope: Scope, record: Record, teller: Teller) -> None:
        self.ground = ground
        self.scope = scope
        self.noise = Noise()
        self.samples: list[Sample] = []
        self.remarks: list[str] = []
        self._ends_at = math.inf
        self._connection = connection
        self._record = record
        self._teller = teller

    @property
    def figures(self) -> list[Figure]:
        return collect(self.samples)

    def note(self, measure: Measure, value: float, limit: float | None = None) -> None:
        """One round's value of a measure, and its limit's."""
        self.samples.append(Sample(measure, value, limit))

    def remark(self, text: str) -> None:
        """What a reader of the figures must know."""
        if text not in self.remarks:
            self.remarks.append(text)

    def begin(self, seconds: float) -> None:
        """A scenario begins, and has so many seconds: no round begins that would probably not end within them."""
        self._ends_at = anyio.current_time() + seconds

    def show(self, what: str) -> None:
        self._teller.show(what)

    def recall(self, stage: str, rounds: int | None = None) -> bool:
        """Whether the record holds every round of a stage, which are then noted: nothing needs to be set up for it."""
        numbers = range(1, (rounds or self.scope.rounds) + 1)
        if not all((stage, one) in self._record.done for one in numbers):
            return False
        self.samples += [sample for one in numbers for sample in self._record.done[stage, one]]
        return True

    async def rounds(self, stage: str, rounds: int | None = None) -> AsyncIterator[int]:
        """Numbers from 1, each after a calibration; those that the record holds are noted and passed over."""
        longest = 0.0
        for one in range(1, (total := rounds or self.scope.rounds) + 1):
            if (stage, one) in self._record.done:
                self.samples += self._record.done[stage, one]
                continue
            began = anyio.current_time()
            if one > 1 and began + longest > self._ends_at:
                self.remark(
                    f"{stage}: {one - 1} of {total} rounds fitted into its time; --rounds {total} takes the time."
                )
                return
            self._teller.show(f"{stage}: round {one} of {total}")
            self.noise.calibrations.append(await calibrate(self._connection))
            before = len(self.samples)
            yield one
            longest = max(longest, anyio.current_time() - began)
            self._record.append(stage, one, self.samples[before:])
            self._teller.say(f"{stage} {one}/{total}: {_brief(self.samples[before:])}")


def _brief(samples: list[Sample]) -> str:
    """Those that have a target, if any has."""
    samples = [one for one in samples if one.measure.target] or samples
    return "; ".join(
        f"{one.measure.name} {number(one.value)}" + (f" of {number(one.limit)}" if one.limit is not None else "")
        for one in samples
    )
