"""What jobs of a torture need, and the rules of the names when all is quiet.

Most names are needed by jobs of several lanes: a name of capacity 1 whose jobs form a single lane is guarded by the
locks of their rows as well.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

MOST = {"lamp": 1, "desk": 1, "shelf": 2, "oven": 1, "crane": 2, "dock": 3, "mint": 2, "press": 1}
"""The names, and the most units that a job needs of each. No rule that has a capacity at all gives less."""
STEADY = {"lamp": 1, "desk": 2, "shelf": 3}
"""Names whose capacity stays the same; the first has no rule. The handlers themselves are judged by these."""
OF_A_KEY = 1
"""As many jobs with the same limit_key run at a time."""
KEYS = [f"k{number}" for number in range(6)]
AFFINITIES = ["small", "large", "huge"]
RULES: dict[str, tuple[int | None, float | None, int]] = {
    "desk": (STEADY["desk"], None, 1),
    "shelf": (STEADY["shelf"], None, 1),
    "oven": (2, None, 1),
    "crane": (3, None, 1),
    "dock": (4, None, 1),
    "mint": (None, 8.0, 3),
    "press": (2, 6.0, 2),
}
"""Capacity, rate and burst of each name, before and after the storm."""


@dataclass(frozen=True, slots=True)
class Needs:
    """needs: as JSON, an object or an array."""

    needs: str | None = None
    limit_key: str | None = None
    affinity: str | None = None

    @property
    def steady(self) -> Mapping[str, int]:
        """Units by the names whose capacity stays the same."""
        given = json.loads(self.needs or "{}")
        units = given if isinstance(given, dict) else dict.fromkeys(given, 1)
        keys = {f"key:{self.limit_key}": OF_A_KEY} if self.limit_key else {}
        return {name: units[name] for name in STEADY if name in units} | keys


NOTHING = Needs()


def drawn(chance: random.Random, *, is_slow: bool) -> Needs:
    """Of a job. Most need nothing, and of those that run for long nearly all, else the others would wait for ever."""
    if chance.random() > (0.15 if is_slow else 0.4):
        return NOTHING
    names = chance.sample([*MOST], chance.choices((0, 1, 2, 3), (2, 6, 3, 1))[0])
    units = {name: chance.randint(1, MOST[name]) for name in names}
    is_array = set(units.values()) == {1} and chance.random() < 0.5
    return Needs(
        json.dumps(names if is_array else units) if names else None,
        chance.choice(KEYS) if chance.random() < 0.3 else None,
        chance.choice(AFFINITIES) if chance.random() < 0.2 else None,
    )
