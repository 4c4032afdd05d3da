"""How far back claims look.

Theory of operation. Finished jobs leave dead entries at the head of the index of claimable jobs. A claim clears away
the dead entries on its way, unless a long transaction somewhere in the cluster holds the xmin horizon back. Then each
claim from the head passes all dead entries again, and claims get slower for as long as the transaction lasts.

A *look* is a claim of jobs whose due times lie in a *span*. A look that came back with room left has taken all due jobs
of the span. Later looks may leave the span out, but for latecomers: jobs of transactions still open then, jobs given
back, jobs inserted with a due time long ago. So while looks at everything are slow, a look is at new jobs: due since
MARGIN before the last look that took all. In between, a look is at a *slice* of the past. The slices of a *round* go
from the newest to the oldest, and then the next round begins. Line by line, while now moves to the right:

    look at      ever                                         now
    everything   ├───────────────────────────────────────────────┤     took all, slowly: a round begins
    new                                                  ├────────┤
    slice                                  ├─────────────┤
    new                                                   ├────────┤
    slice                  ├───────────────┤
    new                                                    ├────────┤
    slice        ├─────────┤                                           the last of the round
    new                                                     ├────────┤
    slice                                    ├───────────────┤         the first of the next round

A slice is as wide as a look passes in SLICE seconds. The next slice is due after SHARE times the seconds that the look
took. So the past costs claims a small share of the time, however much past there is. After a round of a single, quick
slice, looks are at everything again.

A slow claim need not mean dead entries: the database may be far away or busy. So the time of each look is compared with
the fastest recent look, plus the usual spread of looks at new jobs, which meet no dead entries. Noise may still pass
for dead entries. So no slice is narrower than NARROWEST. A round has at most MOST_SLICES slices, begun within
LONGEST_ROUND, and a last slice with all the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from time import monotonic

SLOW = 0.005
"""Seconds: a look is slow if it takes so much longer than the fastest."""
SLOW_PER_JOB = 0.0001
"""Seconds that a look may take longer for each job."""
NEAR = 0.0005
"""Seconds of the fastest look, at least."""
FORGETTING = 1.3
"""Ratio: the fastest look counts as so much slower after each later look, since a database may move away."""
MARGIN = 1.0
"""Seconds that a transaction may take from INSERT to commit, and looks at new jobs still find the job."""
SLICE = 0.004
"""Seconds of a look at a slice, ideally."""
SHARE = 15
"""Seconds until the next slice, for each second of the last look at a slice."""
NARROWEST = 1.0
"""Seconds of the past in a slice, at least."""
MOST_SLICES = 40
"""Slices in a round, before the slice with the rest."""
LONGEST_ROUND = 4.0
"""Seconds from a round's beginning, after which the next slice is all the rest: so a job due long ago is found soon,
however busy the database."""
WIDENED = 8
"""How many times as wide first slices become after a round that lasted too long, and whose rest was passed quickly."""
NOISE_OF = 16
"""Number of recent looks at new jobs over which the spread is averaged."""
WIDEST = 86_400.0
"""Seconds of the past in a slice, at most. A wider slice is all the rest."""
OVERLAP = 0.1
"""Seconds of overlap between spans: a span travels as seconds before now, and now is later at the database."""


@dataclass(frozen=True, slots=True)
class Span:
    """The due times of a look, between two instants of `time.monotonic()`."""

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


@dataclass(frozen=True, slots=True)
class Round:
    """The rest of a way through the past.

    end: an instant, where the next slice ends. width: of the next slice, in seconds. began: an instant. slices: how
    many have been passed.
    """

    end: float
    width: float
    began: float
    slices: int = 0

    @property
    def slice(self) -> Span:
        """The next slice. The last slice of a round has no beginning."""
        is_last = self.is_at_its_end or monotonic() > self.began + LONGEST_ROUND
        return Span(-inf if is_last else self.end - self.width, self.end)

    @property
    def is_at_its_end(self) -> bool:
        """Whether the next slice is the last, however long the round has lasted."""
        return self.width > WIDEST or self.slices >= MOST_SLICES

    def after(self, passed: Span, passing: float) -> Round:
        """The rest after a slice. passing: seconds in which the look passed dead entries."""
        return Round(passed.start, _adapted(self.width, passing), self.began, self.slices + 1)


class Lookback:
    """was_at_the_past: whether the last look was at a slice."""

    def __init__(self) -> None:
        self._new_seen_at = monotonic()
        self.forget()

    def forget(self) -> None:
        """Begins anew: looks are at everything."""
        self._usual = _Usual()
        self._took_all_at = -inf  # when the last look that took all began
        self._round: Round | None = None  # None: looks are at everything
        self._first_width = inf  # seconds, of a round's first slice
        self._slice_due_at = 0.0
        self._is_pressed = False
        self.was_at_the_past = False

    @property
    def span(self) -> Span:
        """The span of the next look. No slice follows a slice: new jobs do not wait for the past."""
        if self._round and not self.slice_due_in and not self.was_at_the_past:
            return self._round.slice
        return self.newest

    @property
    def newest(self) -> Span:
        """The span of new jobs: due since the last look that took all, or committed late."""
        return Span(self._took_all_at - MARGIN) if self._round else EVERYTHING

    @property
    def new_seen_ago(self) -> float:
        """Seconds since the last look at new jobs."""
        return monotonic() - self._new_seen_at

    @property
    def slice_due_in(self) -> float:
        """Seconds until the next look at the past; infinite while looks are at everything."""
        if not self._round:
            return inf
        return 0.0 if self._is_pressed else max(0.0, self._slice_due_at - monotonic())

    @property
    def is_pressed(self) -> bool:
        """Whether a round without pauses is under way. Another must not begin before the round has ended."""
        return self._is_pressed and self._round is not None

    def press(self) -> None:
        """Begins a round without pauses."""
        if self._round:
            self._is_pressed = True
            self._round = self._new_round()

    def note(self, span: Span, *, began: float, jobs: int, room: int) -> None:
        """Notes a look that began at an instant, and took `jobs` jobs where there was room for `room`."""
        took, took_all = monotonic() - began, jobs < room
        is_at_the_new = -inf < span.start and span.end == inf
        passing = self._usual.beyond(took - SLOW_PER_JOB * jobs, is_free_of_the_dead=is_at_the_new)
        self.was_at_the_past = span.end < inf
        if self._round and self.was_at_the_past:
            self._slice_due_at = monotonic() + SHARE * took
            self._round = self._after_slice(self._round, span, passing, took_all=took_all)
            return
        self.note_new_seen()
        if took_all:
            self._took_all_at = began
        if span == EVERYTHING:
            self._round = self._new_round() if passing > SLOW else None

    def note_new_seen(self) -> None:
        """Notes that new jobs have been looked for, by a look or by claims apart."""
        self._new_seen_at = monotonic()

    def _after_slice(self, before: Round, span: Span, passing: float, *, took_all: bool) -> Round | None:
        if not took_all:  # a backlog committed late counts as new
            self._took_all_at = span.start + MARGIN
            return self._new_round()
        after = before.after(span, passing)
        if after.slices == 1:
            self._first_width = after.width
        if span.start > -inf:
            return after
        self._is_pressed = False
        if not before.is_at_its_end and passing < SLOW:  # noise, rather than dead entries, has made slices narrow
            self._first_width *= WIDENED
        was_one_quick_slice = after.slices == 1 and passing < SLOW
        return None if was_one_quick_slice else self._new_round()

    def _new_round(self) -> Round | None:
        """None: no look has taken all, and there is no past."""
        if self._took_all_at == -inf:
            return None
        return Round(self._took_all_at - MARGIN, self._first_width, monotonic())


class _Usual:
    """The usual time of a look without dead entries."""

    def __init__(self) -> None:
        self._fastest = NEAR
        self._noise = 0.0  # seconds beyond the fastest look, on average of looks at new jobs

    def beyond(self, took: float, *, is_free_of_the_dead: bool) -> float:
        """Seconds in which a look passed dead entries, as far as the look's time can tell."""
        self._fastest = min(max(took, NEAR), self._fastest * FORGETTING)
        beyond = took - self._fastest
        if is_free_of_the_dead:
            self._noise += (beyond - self._noise) / NOISE_OF
        return max(0.0, beyond - 2 * self._noise)


def _adapted(width: float, passing: float) -> float:
    """The width of the next slice, to be passed in SLICE seconds: at least NARROWEST, at most twice the last width."""
    if passing > SLICE:
        return max(NARROWEST, min(width, 2 * WIDEST) * max(SLICE / passing, 0.01))
    return width * 2 if passing < SLICE / 2 else width
