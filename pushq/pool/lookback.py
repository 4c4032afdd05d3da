"""How far back claims look.

Theory of operation. Jobs that have been run leave dead entries at the head of the index that claims read. They are
cleared away as they are met, unless a long transaction somewhere in the cluster holds the xmin horizon back: then each
claim that begins at the head passes all of them, and gets slower for as long as that lasts.

A look that took fewer jobs than it had room for has taken all that were due in its span. What it could not see yet has
become due since, but for transactions that were under way, jobs that were given back, and rows that say they were due
long ago. So while looks at everything are slow, a pool looks at what became due since the last look, and MARGIN
earlier. In between it looks at the past before that, in slices, from the newest to the oldest and round again. A slice
is as wide as can be passed in SLICE seconds, and the next one is due after SHARE times as long as it took: the past
costs claims a small share of the time, however much of it there is. A round that was one quick slice ends all this.

What a look takes because the database is far away, or busy with others, says nothing of what it passed: it is compared
with the quickest look of late, and with how much slower than that looks at what is new are. Noise may still be taken
for dead entries: so no slice is narrower than NARROWEST, and a round has no more than MOST_SLICES, and the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from time import monotonic

SLOW = 0.005
"""Seconds beyond the quickest look after which one is slow, beside SLOW_PER_JOB for each job that it took."""
SLOW_PER_JOB = 0.0001
NEAR = 0.0005
"""Seconds of the quickest look, until others are known."""
FORGETTING = 1.3
"""By how much the quickest look counts as slower with each later one: a database may move away."""
MARGIN = 1.0
"""Seconds for which a transaction may insert and not have committed, and be seen at once all the same."""
SLICE = 0.004
"""Seconds that a slice should take."""
SHARE = 15
NARROWEST = 1.0
"""Seconds of the past in a slice, at least."""
MOST_SLICES = 40
NOISE_OF = 16
"""How many looks at what is new tell how much times vary."""
WIDEST = 86_400.0
"""Seconds of the past in a slice, at most: one that is to be wider is at all that is left."""
OVERLAP = 0.1
"""Seconds by which spans overlap: they travel as seconds before now, whenever that will be."""


@dataclass(frozen=True, slots=True)
class Span:
    """What a look is at: what became due between two instants of time.monotonic()'s clock."""

    start: float = -inf
    end: float = inf

    @property
    def since(self) -> float | None:
        """Seconds before now; None: ever."""
        return None if self.start == -inf else monotonic() - self.start + OVERLAP

    @property
    def until(self) -> float | None:
        """Seconds before now; None: now."""
        return None if self.end == inf else max(0.0, monotonic() - self.end - OVERLAP)


EVERYTHING = Span()


class Lookback:
    """was_at_the_past: whether the last look was a slice."""

    def __init__(self) -> None:
        self._new_seen_at = monotonic()
        self.forget()

    def forget(self) -> None:
        """Begins anew: looks at everything."""
        self._is_slow = False
        self._quickest = NEAR
        self._noise = 0.0  # how much slower than the quickest looks at what is new are, on average
        self._took_all_at = -inf
        self._past_from = -inf  # where the next slice ends
        self._slices = 0  # of this round, so far
        self._width = inf  # of the next slice
        self._first_width = inf  # of the first one of a round
        self._slice_due_at = 0.0
        self.was_at_the_past = False
        self._is_pressed = False

    @property
    def new_seen_ago(self) -> float:
        """Seconds since a look was last at what is new."""
        return monotonic() - self._new_seen_at

    @property
    def span(self) -> Span:
        """What the next look is to be at. No two slices follow one another, so that nothing new waits for the past."""
        if self._has_past and self.slice_due_in <= 0 and not self.was_at_the_past:
            is_last = self._width > WIDEST or self._slices >= MOST_SLICES
            return Span(-inf if is_last else self._past_from - self._width, self._past_from)
        return self.newest

    @property
    def newest(self) -> Span:
        """What became due since the last look that took all, and what may have been committed late."""
        return Span(self._took_all_at - MARGIN) if self._has_past else EVERYTHING

    @property
    def slice_due_in(self) -> float:
        """Seconds until it is time to look at the past; infinite when each look is at everything."""
        if not self._has_past:
            return inf
        return 0.0 if self.is_pressed else max(0.0, self._slice_due_at - monotonic())

    @property
    def is_pressed(self) -> bool:
        """Whether a look at all of the past is under way. It must come to its end before another one is begun."""
        return self._has_past and self._is_pressed

    def press(self) -> None:
        """Looks at all of the past, from now on and without pauses."""
        if self._has_past:
            self._is_pressed = True
            self._begin_round()

    def note(self, span: Span, *, began: float, jobs: int, room: int) -> None:
        """Notes a look, and when it began."""
        took, took_all = monotonic() - began, jobs < room
        self.was_at_the_past = span.end < inf
        passing = self._passing(took - SLOW_PER_JOB * jobs, of_what_is_new=-inf < span.start and span.end == inf)
        if self.was_at_the_past:
            self._slice_due_at = monotonic() + SHARE * took
            self._note_slice(span, passing, took_all=took_all)
            return
        self.note_new_seen()
        if took_all:
            self._took_all_at = began
        if span == EVERYTHING:
            self._is_slow = passing > SLOW
            self._begin_round()

    def note_new_seen(self) -> None:
        """A look at what is new has just ended, or one of another kind that has seen as much."""
        self._new_seen_at = monotonic()

    def _passing(self, took: float, *, of_what_is_new: bool) -> float:
        """Seconds for which a look passed dead entries, as far as can be told."""
        self._quickest = min(max(took, NEAR), self._quickest * FORGETTING)
        beyond = took - self._quickest
        if of_what_is_new:
            self._noise += (beyond - self._noise) / NOISE_OF
        return max(0.0, beyond - 2 * self._noise)

    def _note_slice(self, span: Span, passing: float, *, took_all: bool) -> None:
        if not took_all:  # a backlog that was committed late: it is no past
            self._took_all_at = span.start + MARGIN
            self._begin_round()
            return
        self._slices += 1
        self._past_from, self._width = span.start, _adapted(self._width, passing)
        is_first, is_last = self._slices == 1, span.start == -inf
        if is_first:
            self._first_width = self._width
        if is_last:
            self._is_slow = not (is_first and passing < SLOW)
            self._is_pressed = False
            self._begin_round()

    def _begin_round(self) -> None:
        self._past_from = self._took_all_at - MARGIN
        self._slices = 0
        self._width = self._first_width

    @property
    def _has_past(self) -> bool:
        return self._is_slow and self._took_all_at > -inf


def _adapted(width: float, passing: float) -> float:
    """As wide as SLICE allows, but not below NARROWEST, and at most twice as wide as it was."""
    if passing > SLICE:
        return max(NARROWEST, min(width, 2 * WIDEST) * max(SLICE / passing, 0.01))
    return width * 2 if passing < SLICE / 2 else width
