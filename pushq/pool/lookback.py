"""How far back claims look.

Theory of operation. Jobs that have been run leave dead entries at the head of the index that claims read. They are
cleared away as they are met, unless a long transaction somewhere in the cluster holds the xmin horizon back: then each
claim that begins at the head passes all of them, and gets slower for as long as that lasts.

A full look that took fewer jobs than it wanted has taken all that were due. What it could not see yet has become due
since, but for transactions that were under way, jobs that were given back, and rows that say they were due long ago.
So while full looks are slow, a pool looks only at what became due since the last one, and MARGIN earlier; for the rest
it takes another full look after SHARE times as long as the last one took. While full looks are quick, all are full.
"""

from __future__ import annotations

from time import monotonic

SLOW = 0.005
"""Seconds beyond which a look is slow, beside SLOW_PER_JOB for each job that it took."""
SLOW_PER_JOB = 0.0001
MARGIN = 5.0
"""Seconds for which a transaction may insert and not have committed, and be seen at once all the same."""
SHARE = 20


class Lookback:
    def __init__(self) -> None:
        self._took_all_at: float | None = None
        self._full_look_at = 0.0
        self._is_slow = False

    @property
    def seconds(self) -> float | None:
        """How many seconds before now a claim is to begin; None: at the very beginning."""
        if not self._is_slow or self._took_all_at is None or self.full_look_in <= 0:
            return None
        return monotonic() - self._took_all_at + MARGIN

    @property
    def full_look_in(self) -> float:
        """Seconds until it is time for a full look."""
        return self._full_look_at - monotonic() if self._is_slow else 0.0

    def demand_full(self) -> None:
        """The next look must be full."""
        self._full_look_at = 0.0

    def note_full(self, *, began: float, jobs: int, room: int) -> None:
        """Notes a full look, and when it began."""
        took = monotonic() - began
        self._is_slow = took > SLOW + SLOW_PER_JOB * jobs
        self._full_look_at = monotonic() + SHARE * took
        if jobs < room:
            self._took_all_at = began
