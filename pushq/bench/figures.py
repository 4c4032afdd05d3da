"""What was measured, judged by its own limit: samples → medians, ranges, ratios, verdicts. (pure)"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Direction = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should come to, by its ratio to the limit, or by its own median."""

    direction: Direction
    bound: float
    of: Literal["ratio", "median"] = "ratio"

    def is_met(self, reached: float) -> bool:
        return reached >= self.bound if self.direction == "at least" else reached <= self.bound

    def __str__(self) -> str:
        return f"{self.direction} {self.bound:.3g}"


def at_least(bound: float) -> Target:
    """So much of the limit."""
    return Target("at least", bound)


def at_most(bound: float) -> Target:
    """So many times the limit."""
    return Target("at most", bound)


def no_more_than(bound: float) -> Target:
    """In the figure's own unit."""
    return Target("at most", bound, "median")


@dataclass(frozen=True, slots=True)
class Measure:
    """What is measured, and against what. `limit` names what the same round measures beside it; None: nothing."""

    scenario: str
    name: str
    unit: str
    limit: str | None = None
    target: Target | None = None

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Measure:
        target = given["target"]
        return cls(**{**given, "target": Target(**target) if target else None})


@dataclass(frozen=True, slots=True)
class Sample:
    """One round's value, and its limit's."""

    measure: Measure
    value: float
    limit: float | None = None

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Sample:
        return cls(Measure.from_json(given["measure"]), given["value"], given["limit"])


@dataclass(frozen=True, slots=True)
class Figure:
    """A measure and its rounds."""

    measure: Measure
    values: tuple[float, ...]
    limits: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def range(self) -> tuple[float, float]:
        return min(self.values), max(self.values)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Each round's own: a machine that slows down slows both."""
        return tuple(value / limit for value, limit in zip(self.values, self.limits, strict=True) if limit)

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.limits and self.ratios else None

    @property
    def verdict(self) -> Literal["met", "missed"] | None:
        """None where there is no target, or nothing to hold against it."""
        target = self.measure.target
        reached = self.ratio if target and target.of == "ratio" else self.median
        if target is None or reached is None:
            return None
        return "met" if target.is_met(reached) else "missed"

    def as_json(self) -> dict[str, Any]:
        limits = {"name": self.measure.limit, "values": self.limits} if self.limits else None
        return {
            "scenario": self.measure.scenario,
            "name": self.measure.name,
            "unit": self.measure.unit,
            "median": self.median,
            "range": self.range,
            "values": self.values,
            "limit": limits and {**limits, "median": statistics.median(self.limits)},
            "ratio": self.ratio,
            "ratios": self.ratios if self.limits else None,
            "target": self.measure.target and asdict(self.measure.target),
            "verdict": self.verdict,
        }

    def as_row(self) -> dict[str, str]:
        """For a table."""
        low, high = self.range
        limit = f"{number(statistics.median(self.limits))} {self.measure.limit}" if self.limits else ""
        return {
            "figure": self.measure.name,
            "median": f"{number(self.median)} {self.measure.unit}",
            "range": f"{number(low)} - {number(high)}",
            "limit": limit,
            "ratio": "" if self.ratio is None else f"{self.ratio:.2f}",
            "target": str(self.measure.target or ""),
            "": self.verdict or "",
        }


def collect(samples: Iterable[Sample]) -> list[Figure]:
    """A figure a measure, in the order in which they first came."""
    grouped: dict[Measure, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault(sample.measure, []).append(sample)
    return [
        Figure(
            measure,
            tuple(sample.value for sample in its),
            tuple(sample.limit for sample in its if sample.limit is not None),
        )
        for measure, its in grouped.items()
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that a share of all (0 to 1) does not exceed: nearest rank, never a value nobody saw."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def number(value: float) -> str:
    """Three digits, or all before the point: 12,345 and 1.23."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
