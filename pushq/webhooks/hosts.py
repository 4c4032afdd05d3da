"""How many deliveries go to a host at once, and when the others try again.

A host that answers quickly may take half of the workers. Every other host takes two at most, and all of them together
the other half: whoever hangs, and however many hang, quick receivers find a free worker.

A delivery for which there is no place goes back into the queue, and comes again when a place should be free, as if the
deliveries of a host stood in line. So each goes back once or twice, however long the line.

Of a host that has not answered yet, only one thing is known: how long the first delivery has taken so far. The line
reckons with as much again. So the first deliveries to a quick host come back in an instant, and to a host that hangs
they come back less and less often.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

QUICK = 2.0
"""Seconds that a delivery to a quick host takes on average, at most."""
AT_ONCE = 2
"""Deliveries at once to a host that is not known to be quick."""
LEAST_WAIT = 0.1
LONGEST_WAIT = 300.0
"""Seconds after which a delivery tries again, whatever the line: the host may have become quick."""
MOST_KNOWN = 10_000
"""Hosts whose pace is remembered."""
_NEWS = 0.3
"""The weight of the last delivery in a host's pace."""


@dataclass(slots=True)
class _Host:
    """pace: seconds of a delivery on average, or None. busy: deliveries now. free_at: when the line has gone.

    since: when the host last answered, or the first of the deliveries under way began.
    """

    pace: float | None = None
    busy: int = 0
    free_at: float = 0.0
    since: float = 0.0

    @property
    def is_quick(self) -> bool:
        return self.pace is not None and self.pace <= QUICK


class Hosts:
    """workers: of the pool. now: a clock, in seconds."""

    def __init__(self, workers: int, now: Callable[[], float] = monotonic) -> None:
        self._half = max(1, workers // 2)
        self._now = now
        self._known: dict[str, _Host] = {}
        self._busy: dict[str, _Host] = {}  # at most as many as workers

    def enter(self, name: str, *, has_waited: bool) -> float:
        """Takes a place, and returns 0; or returns the seconds to wait. has_waited: not the delivery's first try."""
        if wait := self.wait(name, has_waited=has_waited):
            return wait
        host = self._known[name]
        if not host.busy:
            host.since = self._now()
        host.busy += 1
        self._busy[name] = host
        return 0.0

    def wait(self, name: str, *, has_waited: bool) -> float:
        """Seconds to wait for a place, in line with the others; or 0, and no place is taken."""
        host = self._host(name)
        now = self._now()
        if (has_waited or host.free_at <= now or not host.busy) and self._has_place(host):
            return 0.0
        pace = max(now - host.since, LEAST_WAIT) if host.pace is None else host.pace
        host.free_at = min(max(now, host.free_at) + pace / self._most(host), now + LONGEST_WAIT)
        return max(host.free_at - now, LEAST_WAIT)

    def leave(self, name: str, seconds: float) -> None:
        """Gives the place back. seconds: how long the delivery took."""
        host = self._busy[name]
        host.busy -= 1
        host.since = self._now()
        if not host.busy:
            del self._busy[name]
        was_quick = host.is_quick
        host.pace = seconds if host.pace is None else (1 - _NEWS) * host.pace + _NEWS * seconds
        if host.is_quick and not was_quick:
            host.free_at = host.since  # the line was reckoned for a slow host, or for one that nobody knew

    def _has_place(self, host: _Host) -> bool:
        if host.busy >= self._most(host):
            return False
        return host.is_quick or sum(other.busy for other in self._busy.values() if not other.is_quick) < self._half

    def _most(self, host: _Host) -> int:
        return self._half if host.is_quick else min(AT_ONCE, self._half)

    def _host(self, name: str) -> _Host:
        if len(self._known) >= MOST_KNOWN and name not in self._known:
            now = self._now()
            self._known = {known: host for known, host in self._known.items() if host.busy or host.free_at > now}
        return self._known.setdefault(name, _Host())
