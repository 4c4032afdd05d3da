"""The result of a run, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pushq.bench.figures import Figure
from pushq.bench.run import Run
from pushq.errors import PushqError


@dataclass(slots=True)
class Report:
    run: Run
    machine: dict[str, str]
    settings: dict[str, str]
    began_at: datetime
    took: timedelta = timedelta(0)
    was_stopped: bool = False
    failures: list[PushqError] = field(default_factory=list)

    @property
    def figures(self) -> list[Figure]:
        return self.run.figures

    @property
    def remarks(self) -> list[str]:
        """Sentences that a reader of the figures must know."""
        remarks = list(self.run.remarks)
        if self.settings.get("fsync") == "off":
            remarks.insert(
                0, "fsync is off: a commit costs nothing here, and the figures say little about a real server."
            )
        if self.was_stopped:
            remarks.append("The run was stopped; the last round of a scenario may be missing.")
        return remarks

    @property
    def verdicts(self) -> str:
        """How many targets were met."""
        verdicts = [figure.verdict for figure in self.figures if figure.verdict]
        return f"{verdicts.count('met')} of {len(verdicts)} targets met"

    def by_scenario(self) -> dict[str, list[Figure]]:
        grouped: dict[str, list[Figure]] = {}
        for figure in self.figures:
            grouped.setdefault(figure.measure.scenario, []).append(figure)
        return grouped

    def as_json(self) -> dict[str, Any]:
        return {
            "began_at": self.began_at.isoformat(timespec="seconds"),
            "seconds": self.took.total_seconds(),
            "machine": self.machine,
            "settings": self.settings,
            "noise": self.run.noise.as_json(),
            "rounds": self.run.scope.rounds,
            "figures": [figure.as_json() for figure in self.figures],
            "remarks": self.remarks,
            "was_stopped": self.was_stopped,
            "failures": [str(failure) for failure in self.failures],
        }
