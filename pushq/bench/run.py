"""A run of the benchmark: rounds, samples, and the record from which a later run goes on."""

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
    """How much is measured. minutes: of the pinned scenario. scale: a factor for numbers of jobs and for seconds."""

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
    """Hears about the progress. show: the current step. say: the result of a round."""

    show: Callable[[str], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None


@dataclass(slots=True)
class Record:
    """Rounds in a file, a JSON object a line. Without a file, rounds are not recorded. done: rounds of earlier runs."""

    file: Path | None = None
    done: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)

    @classmethod
    def resumed(cls, file: Path) -> Record:
        lines = file.read_text().splitlines() if file.is_file() else []
        rounds = [json.loads(line) for line in lines if line.endswith("}")]  # the last line may be cut off
        return cls(file, {(one["stage"], one["round"]): [*map(Sample.from_json, one["samples"])] for one in rounds})

    def append(self, stage: str, round_number: int, samples: list[Sample]) -> None:
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            line = {"stage": stage, "round": round_number, "samples": [asdict(sample) for sample in samples]}
            with self.file.open("a") as writable:
                writable.write(json.dumps(line) + "\n")


class Run:
    """The run, as a scenario sees it. connection: to a database in which calibrations may write."""

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

    def add(self, measure: Measure, value: float, limit: float | None = None) -> None:
        """Adds one round's value of a measure, and the value of the limit."""
        self.samples.append(Sample(measure, value, limit))

    def add_remark(self, text: str) -> None:
        """Adds a sentence that a reader of the figures must know."""
        if text not in self.remarks:
            self.remarks.append(text)

    def begin_scenario(self, seconds: float) -> None:
        """Gives the next scenario `seconds`. A round that would probably end later is not begun."""
        self._ends_at = anyio.current_time() + seconds

    def show(self, what: str) -> None:
        self._teller.show(what)

    def restore(self, stage: str, rounds: int | None = None) -> bool:
        """Adds a stage's samples from the record, if the record holds every round. Returns whether it does."""
        numbers = range(1, (rounds or self.scope.rounds) + 1)
        if not all((stage, one) in self._record.done for one in numbers):
            return False
        self.samples += [sample for one in numbers for sample in self._record.done[stage, one]]
        return True

    async def rounds(self, stage: str, rounds: int | None = None) -> AsyncIterator[int]:
        """Yields the number of each round to measure, from 1, after a calibration. Adds recorded rounds instead."""
        longest = 0.0
        for one in range(1, (total := rounds or self.scope.rounds) + 1):
            if (stage, one) in self._record.done:
                self.samples += self._record.done[stage, one]
                continue
            began = anyio.current_time()
            if one > 1 and began + longest > self._ends_at:
                self.add_remark(
                    f"{stage}: only {one - 1} of {total} rounds fitted into the time; --rounds {total} measures all."
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
    """Values and limits in a line: of measures with a target, else of all."""
    samples = [one for one in samples if one.measure.target] or samples
    return "; ".join(
        f"{one.measure.name} {number(one.value)}" + (f" of {number(one.limit)}" if one.limit is not None else "")
        for one in samples
    )
