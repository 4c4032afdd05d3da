"""Plays what pushq, its clients and the faults may do to a few jobs, and nothing else: histories that are good.

What happens next is read from a tape of bytes, so that Hypothesis finds the shortest tape that shows something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from tests.torture.histories import Hero, Tale
from tests.torture.history import Answer, History

HOSTS = 3
MOST_JOBS = 3

Act: TypeAlias = Callable[[], object]


def play(tape: bytes) -> History:
    """The history of a tape: whatever is under way at its end is brought to an end."""
    stage = Stage()
    for byte in tape:
        stage.act(byte)
    stage.wind_up()
    return stage.tale.history()


@dataclass(slots=True)
class Part:
    """A job that the database has. run: the run of its claim, by its place in the hero's runs; is_over: whether that
    ended; abandoned: runs of claims that it lost, which have not ended yet."""

    hero: Hero
    most: int
    run: int | None = None
    is_over: bool = False
    abandoned: list[int] = field(default_factory=list)

    @property
    def status(self) -> str:
        return self.hero.row.status

    def lose_claim(self) -> None:
        """It is somebody else's now; a run that has not ended goes on."""
        if self.run is not None and not self.is_over:
            self.abandoned.append(self.run)
        self.run, self.is_over = None, False


class Stage:
    def __init__(self) -> None:
        self.tale = Tale(failures_allowed=2)
        self.parts: list[Part] = []
        self._host = 0

    def act(self, byte: int) -> None:
        """The low digits of the byte choose who acts, the rest what it does."""
        choice, who = divmod(byte, len(self.parts) + 1)
        acts = self._acts_of_anybody() if who == len(self.parts) else self._acts(self.parts[who])
        self._host = byte % HOSTS
        acts[choice % len(acts)]()

    def wind_up(self) -> None:
        for part in self.parts:
            for run in part.abandoned:
                part.hero.end(run)
            part.abandoned.clear()
            while not part.hero.row.is_finished:
                self._go_on(part)

    def _go_on(self, part: Part) -> None:
        """Nothing goes wrong any more."""
        if part.status == "queued":
            part.hero.claim(self._host)
        elif part.run is None:
            self._begin(part)
        elif not part.is_over:
            self._end(part)
        else:
            self._give_up_claim(part, part.hero.succeed)

    # What may happen ------------------------------------------------------------------------------------------

    def _acts_of_anybody(self) -> list[Act]:
        if len(self.parts) >= MOST_JOBS:
            return [self.tale.crash_server, lambda: self.tale.freeze(self._host, 0.9), lambda: self.tale.freeze(None)]
        return [
            lambda: self._insert("ok", None),
            lambda: self._insert("unknown", 2),
            lambda: self.tale.job("failed"),
            lambda: self.tale.job("unknown", commits=False),
            lambda: self._insert("ok", 1),
        ]

    def _acts(self, part: Part) -> list[Act]:
        late = [lambda: part.hero.end(part.abandoned.pop()), lambda: part.hero.die(part.abandoned.pop())]
        return self._acts_of_its_state(part) + (late if part.abandoned else [])

    def _acts_of_its_state(self, part: Part) -> list[Act]:
        if part.hero.row.is_finished:
            return self._acts_on_finished(part)
        if part.status == "queued":
            return self._acts_on_queued(part)
        if part.run is None:
            return self._acts_on_claimed(part)
        if part.hero.row.is_cancelling:
            return self._acts_on_cancelled(part)
        return self._acts_on_ended(part) if part.is_over else self._acts_on_run(part)

    def _acts_on_finished(self, part: Part) -> list[Act]:
        return [part.hero.retry, lambda: part.hero.ask("cancel"), lambda: part.hero.retry("unknown")]

    def _acts_on_queued(self, part: Part) -> list[Act]:
        return [
            lambda: part.hero.claim(self._host),
            lambda: part.hero.cancel(did="cancelled"),
            part.hero.touch,
            part.hero.retry,
            lambda: self._claim_and_forget(part),
            lambda: part.hero.ask("cancel", "unknown"),
        ]

    def _acts_on_claimed(self, part: Part) -> list[Act]:
        return [
            lambda: self._begin(part),
            lambda: self._give_up_claim(part, part.hero.release),
            lambda: self._give_up_claim(part, part.hero.crash),
            lambda: self._give_up_claim(part, lambda: part.hero.cancel("unknown")),
        ]

    def _acts_on_run(self, part: Part) -> list[Act]:
        return [
            lambda: self._end(part),
            lambda: self._die(part),
            lambda: self._freeze(part),
            lambda: self._give_up_claim(part, part.hero.cancel),
            lambda: part.hero.ask("retry"),
            part.hero.mark_cancelling,
        ]

    def _acts_on_cancelled(self, part: Part) -> list[Act]:
        hero = part.hero
        if not part.is_over:
            return [lambda: self._end(part), lambda: self._die(part), lambda: self._freeze(part)]
        goes_on = hero.row.failures + 1 < part.most
        fail = hero.go_on_no_more if goes_on else hero.fail
        return [partial(self._give_up_claim, part, how) for how in (hero.succeed, fail, hero.give_up)]

    def _acts_on_ended(self, part: Part) -> list[Act]:
        hero = part.hero
        goes_on = hero.row.failures + 1 < part.most
        fail = hero.try_again if goes_on else hero.fail
        return [
            lambda: self._give_up_claim(part, lambda: hero.succeed(told=hero.row.token)),
            lambda: self._give_up_claim(part, lambda: fail(told=hero.row.token)),
            lambda: self._give_up_claim(part, hero.release),
            lambda: self._give_up_claim(part, hero.fail),
            lambda: self._give_up_claim(part, hero.give_up),
            lambda: self._give_up_claim(part, hero.crash),
            lambda: self._give_up_claim(part, lambda: hero.cancel("unknown")),
        ]

    # How it happens -------------------------------------------------------------------------------------------

    def _insert(self, answer: Answer, most: int | None) -> None:
        hero = self.tale.job(answer, max_attempts=most)
        self.parts.append(Part(hero, most or self.tale.failures_allowed))

    def _begin(self, part: Part) -> None:
        part.hero.begin()
        part.run = len(part.hero.runs) - 1

    def _end(self, part: Part) -> None:
        assert part.run is not None
        part.hero.end(part.run)
        part.is_over = True

    def _give_up_claim(self, part: Part, how: Act) -> None:
        how()
        part.lose_claim()

    def _die(self, part: Part) -> None:
        assert part.run is not None
        if self._host:  # else nobody knows when
            part.hero.die(part.run)
        part.run = None
        self._crash(part)

    def _freeze(self, part: Part) -> None:
        """A sweeper takes the job away, and the run goes on when its host does."""
        part.hero.freeze(part.hero.host)
        self._give_up_claim(part, lambda: self._crash(part))

    def _crash(self, part: Part) -> None:
        """A job that is being cancelled ends by it."""
        part.hero.give_up() if part.hero.row.is_cancelling else part.hero.crash()

    def _claim_and_forget(self, part: Part) -> None:
        """A pool claims and begins, and the server forgets the claim."""
        part.hero.begin(self._host, attempt=part.hero.row.attempt + 1)
        part.abandoned.append(len(part.hero.runs) - 1)
        self.tale.crash_server()
