"""Samples → medians, ranges, ratios to the limits, verdicts. (pure)"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Direction = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True)
class Target:
    """The bound for a figure: for the ratio to the limit, or for the median."""

    direction: Direction
    bound: float
    of: Literal["ratio", "median"] = "ratio"

    def is_met(self, reached: float) -> bool:
        return reached >= self.bound if self.direction == "at least" else reached <= self.bound

    def __str__(self) -> str:
        return f"{self.direction} {self.bound:.3g}"


def at_least(bound: float) -> Target:
    """A ratio to the limit of at least `bound`."""
    return Target("at least", bound)


def at_most(bound: float) -> Target:
    """A ratio to the limit of at most `bound`."""
    return Target("at most", bound)


def no_more_than(bound: float) -> Target:
    """A median of at most `bound`, in the figure's unit."""
    return Target("at most", bound, "median")


def no_less_than(bound: float) -> Target:
    """A median of at least `bound`, in the figure's unit."""
    return Target("at least", bound, "median")


@dataclass(frozen=True, slots=True)
class Measure:
    """The identity of a figure. limit: the name of the limit that the same round measures, or None."""

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
    """One round's value, and the value of the limit."""

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
        """The ratio of each round. A slow moment of the machine slows value and limit alike."""
        return tuple(value / limit for value, limit in zip(self.values, self.limits, strict=True) if limit)

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.limits and self.ratios else None

    @property
    def verdict(self) -> Literal["met", "missed"] | None:
        """Whether the target is met. None: there is no target, or no ratio."""
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
        """A row of a table, column to text."""
        low, high = self.range
        limit = f"{number(statistics.median(self.limits))} {self.measure.limit}" if self.limits else ""
        return {
            "figure": self.measure.name,
            "median": f"{number(self.median)} {self.measure.unit}",
            "range": f"{number(low)} - {number(high)}",
            "limit": limit,
            "ratio": "" if self.ratio is None else f"{self.ratio:.{3 if self.ratio < 1 else 2}f}",
            "target": str(self.measure.target or ""),
            "": self.verdict or "",
        }


def collect(samples: Iterable[Sample]) -> list[Figure]:
    """A figure for each measure, in the order of the first samples."""
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
    """The percentile of a share (0 to 1) by nearest rank: always one of the values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def number(value: float) -> str:
    """A number with three digits, or with all digits before the point: 1.23 and 12,345."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
