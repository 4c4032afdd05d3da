"""What holds of needs: what is held, how fast it is taken, and who must have begun.

Theory of operation. The commits come in their order, changes of rules among them. PostgreSQL makes a commit visible
before it lets go of locks; so whoever counted under a turnstile saw all earlier claims of its names, and these stand
before it in that order. So after each transaction no name may be over its capacity by what the transaction has added.
While a change of a rule has not settled, the larger capacity counts. What is held when a capacity is lowered may stay,
and be handed on within a lane, and may not grow.

Claims are committed without waiting for the disk. A crash of the server may forget some, and what was held and taken
from a rate by these: then the log of the database has none of it, and the commits are judged without an excuse. But the
handlers of forgotten claims run on beside those that were claimed afterwards. So of these a run is excused, as one is
whose host could not know that it had lost its job.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from math import inf
from uuid import UUID

from tests.torture.history import Change, History, Row, Rule, Run, Settled, Violation
from tests.torture.stories import Circumstances, CommonRule, Story, described, kind_of, was_forgotten

SLACK = 0.4
"""Seconds that may pass between the instant at which a job takes its tokens and the one at which it is noted to have
begun: a busy machine."""
UNLIMITED = ("affinity", "tenant", "task", "queue")
"""Kinds of names that have no capacity without a rule."""


def held_above_capacity(_: Sequence[Story], circumstances: Circumstances) -> Iterator[Violation]:
    """A transaction takes no more of a name than there is."""
    rules, held = Rules(), Held()
    for transaction, those in _transactions(circumstances.history):
        before: dict[str, int] = {}
        for one in those:
            if isinstance(one, Change):
                for name in held.names_of(one):
                    before.setdefault(name, held.units[name])
                held.note(one)
            else:
                rules.note(one)
        for name, units in before.items():
            now, most = held.units[name], rules.most(name)
            if now > units + _stamped(those, name) and now > most:
                what = f"transaction {transaction} left {now} of {name} held, of {most:g}, where {units} had been held"
                yield Violation("NEED", f"{what}: by {held.described(name)}")


def _stamped(those: Sequence[Change | Rule | Settled], name: str) -> int:
    """By how much more running jobs hold, since a limit is new and the jobs are stamped with it: nobody has begun."""
    pairs = ((one.before, one.after) for one in those if isinstance(one, Change))
    return sum(
        units_of(after.needs).get(name, 0) - units_of(before.needs).get(name, 0)
        for before, after in pairs
        if before and after and before.status == after.status == "running" and before.token == after.token
    )


def taken_above_rate(_: Sequence[Story], circumstances: Circumstances) -> Iterator[Violation]:
    """Within no time are more units of a name taken than its burst, and what its rate has brought meanwhile. After a
    change of its rule, the burst is whole."""
    rules, buckets = Rules(), dict[str, Bucket]()
    for one in _in_order(circumstances.history):
        if isinstance(one, Change):
            if one.after and one.before and kind_of(one.before, one.after) == "claim":
                yield from _take(one.after, rules, buckets)
            continue
        rules.note(one)
        buckets.pop(one.name, None)


def _take(row: Row, rules: Rules, buckets: dict[str, Bucket]) -> Iterator[Violation]:
    for name, units in units_of(row.needs).items():
        if not (rule := rules.strict_rate(name)) or not row.started_at:
            continue
        rate, burst = rule
        bucket = buckets.setdefault(name, Bucket())
        taken = bucket.take(units, datetime.fromisoformat(row.started_at).timestamp(), rate)
        if taken > burst + rate * SLACK:
            what = f"attempt {row.attempt} of job {row.job} began at {row.started_at} with {units} of {name}"
            yield Violation(
                "NEED", f"{what}: {taken:.1f} more than a rate of {rate:g} allows, and its burst is {burst}"
            )
            bucket.taken = 0.0


class Bucket:
    """taken: units beyond what the rate has brought."""

    def __init__(self) -> None:
        self.taken = 0.0
        self.at = -inf

    def take(self, units: int, at: float, rate: float) -> float:
        self.taken = max(0.0, self.taken - rate * max(0.0, at - self.at)) + units if self.at > -inf else units
        self.at = max(self.at, at)
        return self.taken


def seen_above_capacity(_: Sequence[Story], circumstances: Circumstances) -> Iterator[Violation]:
    """Nor does anybody see that more is held than there is."""
    for excess in circumstances.history.excesses:
        held = f"{excess.units} of {excess.name}, of {excess.capacity}"
        yield Violation(
            "NEED", f"at {excess.at:.3f} s a look found that running jobs hold {held}, and more than before"
        )


def handlers_above_capacity(stories: Sequence[Story], circumstances: Circumstances) -> Iterator[Violation]:
    """Nor do handlers run at the same time that need more than there is, by their own clocks. Not even that of a job
    that was cancelled: it holds what it needs until it has stopped, unless a guest has it, which nobody can stop."""
    needs, capacities = circumstances.history.steady_needs, circumstances.history.steady
    of_name = defaultdict[str, list[tuple[Run, Story, int]]](list)
    for story in stories:
        for name, units in needs.get(story.job, {}).items():
            of_name[name] += ((run, story, units) for run in story.runs)
    for name, runs in of_name.items():
        running: list[tuple[Run, Story, int]] = []
        for run, story, units in sorted(runs, key=lambda one: one[0].began_at):
            running = [one for one in running if circumstances.ended_at(one[0]) > run.began_at]
            counted = [one for one in running if not _is_excused(circumstances, one, (run, story, units))]
            capacity = capacities["key:" if name.startswith("key:") else name]
            if counted and units + sum(one[2] for one in counted) > capacity:
                others = "; ".join(f"{described(one[0])} of job {one[1].job}" for one in counted)
                what = f"{described(run)} began with {units} of {name}, of {capacity}"
                yield story.finds("NEED", f"{what}, beside {others}")
            running.append((run, story, units))


def _is_excused(circumstances: Circumstances, one: tuple[Run, Story, int], other: tuple[Run, Story, int]) -> bool:
    """Whether one of two that run at the same time has lost its job, and cannot know. By whichever began later."""
    for (lost, its, _), (run, _, _) in ((one, other), (other, one)):
        if circumstances.was_away(lost, run) or was_forgotten(its, circumstances, lost, run):
            return True
        if lost.kept_until is not None and lost.attempt in its.abandoned:
            return True
    return False


def late_beginnings(stories: Sequence[Story], circumstances: Circumstances) -> Iterator[Violation]:
    """In calm, a job begins as soon as it can."""
    of_job = {story.job: story for story in stories}
    for expected in circumstances.history.expected:
        story = of_job.get(expected.job)
        began_at = min((run.began_at for run in story.runs), default=inf) if story else inf
        if story and story.births and began_at > expected.since + expected.within:
            late = "never began" if began_at == inf else f"began after {began_at - expected.since:.1f} s"
            yield story.finds(
                "NEED", f"it waited for {expected.what}, could begin within {expected.within:g} s, and {late}"
            )


# ----------------------------------------------------------------------------------------------------------------------


class Held:
    """What running jobs hold, commit by commit."""

    def __init__(self) -> None:
        self.units = defaultdict[str, int](int)
        self._running: dict[UUID, Row] = {}

    def names_of(self, change: Change) -> set[str]:
        rows = (row for row in (change.before, change.after) if row and row.status == "running")
        return {name for row in rows for name in units_of(row.needs)}

    def note(self, change: Change) -> None:
        if change.before and not change.before.is_finished and change.before.status == "running":
            self._running.pop(change.before.job, None)
            self._add(change.before, -1)
        if change.after and not change.after.is_finished and change.after.status == "running":
            self._running[change.after.job] = change.after
            self._add(change.after, 1)

    def _add(self, row: Row, sign: int) -> None:
        for name, units in units_of(row.needs).items():
            self.units[name] += sign * units

    def described(self, name: str) -> str:
        return ", ".join(
            f"attempt {row.attempt} of {job} on {row.supervisor}"
            for job, row in self._running.items()
            if name in units_of(row.needs)
        )


class Rules:
    """Those of all names, as they are committed."""

    def __init__(self) -> None:
        self._now: dict[str, Rule] = {}
        self._loose: dict[str, list[float]] = {}

    def note(self, one: Rule | Settled) -> None:
        if isinstance(one, Settled):
            self._loose.pop(one.name, None)
            return
        before = self._capacity(one.name), self._rate(one.name)
        self._now[one.name] = one
        if before != (self._capacity(one.name), self._rate(one.name)):
            self._loose.setdefault(one.name, []).append(before[0])

    def most(self, name: str) -> float:
        """The capacity, or the largest since a claim of now may have begun."""
        return max(self._capacity(name), *self._loose.get(name, [0]))

    def strict_rate(self, name: str) -> tuple[float, int] | None:
        """Rate and burst, if they are certain."""
        return self._rate(name) if name not in self._loose else None

    def _rate(self, name: str) -> tuple[float, int] | None:
        rule = self._now.get(name)
        return (rule.rate, rule.burst) if rule and rule.rate is not None else None

    def _capacity(self, name: str) -> float:
        rule, kind = self._now.get(name), name.partition(":")[0] if ":" in name else ""
        if rule and (rule.is_there or kind == "queue"):
            return inf if rule.capacity is None else rule.capacity
        return inf if kind in UNLIMITED else 1


@lru_cache(10_000)
def units_of(needs: str | None) -> Mapping[str, int]:
    return {name: int(units) for name, units in json.loads(needs).items()} if needs else {}


def _in_order(history: History) -> Iterator[Change | Rule | Settled]:
    """As they were committed."""
    rules = defaultdict[int, list[Rule | Settled]](list)
    for rule in history.rules:
        rules[rule.place].append(rule)
    for place, change in enumerate(history.changes):
        yield from rules[place]
        yield change
    yield from rules[len(history.changes)]


def _transactions(history: History) -> Iterator[tuple[int, list[Change | Rule | Settled]]]:
    for transaction, those in groupby(_in_order(history), key=lambda one: getattr(one, "transaction", 0)):
        yield transaction, [*those]


COMMON_RULES_OF_NEEDS: tuple[CommonRule, ...] = (
    held_above_capacity,
    taken_above_rate,
    seen_above_capacity,
    handlers_above_capacity,
    late_beginnings,
)
