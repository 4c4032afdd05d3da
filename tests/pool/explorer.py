"""Searches every state of a small model for a wake-up that is lost, breadth first: the first is a shortest one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, NamedTuple, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)


class Haste(IntEnum):
    PROMPT = 0  # is under way
    AT_LEISURE = 1  # happens sooner or later, if somebody likes
    UNASKED = 2  # timers and faults, which nobody may count on


class Step(NamedTuple, Generic[S]):
    what: str
    after: S
    haste: Haste = Haste.PROMPT


class Model(Protocol[S]):
    @property
    def start(self) -> S: ...

    def steps(self, state: S) -> Iterator[Step[S]]: ...

    def is_lost(self, state: S) -> bool:
        """Of a state at rest, in which nothing prompt is left to happen."""
        ...

    def representative(self, state: S) -> S:
        """One state of all those that are equal but for how their actors are numbered."""
        ...


@dataclass(frozen=True)
class Exploration:
    states: int
    lost: tuple[str, ...] | None
    """The steps to a wake-up that is lost, as few as possible; None: there is no such."""
    stuck: int
    """States from which no rest can be reached, even if all inserters and jobs end: pools would be awake for ever."""


def explore(model: Model[S]) -> Exploration:
    """Every state that can be reached; or those that were seen before a wake-up was lost."""
    seen = Seen(model)
    at_rest: list[int] = []
    for number, state in enumerate(seen.states):  # which grows meanwhile
        is_at_rest = True
        for _, after, haste in model.steps(state):
            seen.add(after, number, counts=haste is not Haste.UNASKED)
            is_at_rest = is_at_rest and haste is not Haste.PROMPT
        if is_at_rest:
            at_rest.append(number)
            if model.is_lost(state):
                return Exploration(len(seen.states), tuple(_story(model, seen.way_to(number))), stuck=0)
    return Exploration(len(seen.states), None, len(seen.states) - seen.count_before(at_rest))


class Seen(Generic[S]):
    """The states that were reached, each once, in the order in which they were."""

    def __init__(self, model: Model[S]) -> None:
        self._model = model
        self.states = [model.representative(model.start)]
        self._numbers = {model.start: 0, self.states[0]: 0}
        self._came_from = [0]
        self._ways_back: list[list[int]] = [[]]

    def add(self, state: S, before: int, *, counts: bool) -> None:
        """`counts`: whether the step that led to it is one that will be taken."""
        number = self._numbers.get(state)
        if number is None:
            number = self._numbers[state] = self._number(self._model.representative(state), before)
        if counts:
            self._ways_back[number].append(before)

    def _number(self, state: S, before: int) -> int:
        number = self._numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
            self._came_from.append(before)
            self._ways_back.append([])
        return number

    def way_to(self, number: int) -> list[S]:
        way = [number]
        while way[-1]:
            way.append(self._came_from[way[-1]])
        return [self.states[each] for each in reversed(way)]

    def count_before(self, goals: Iterable[int]) -> int:
        """From how many states one of the goals can be reached."""
        found = set(goals)
        ahead = list(found)
        while ahead:
            for before in self._ways_back[ahead.pop()]:
                if before not in found:
                    found.add(before)
                    ahead.append(before)
        return len(found)


def _story(model: Model[S], way: list[S]) -> Iterator[str]:
    """What happens on a way of representatives, told with numbers that stay."""
    state = model.start
    for goal in way[1:]:
        step = next(step for step in model.steps(state) if model.representative(step.after) == goal)
        yield step.what
        state = step.after


def assert_loses_nothing(found: Exploration, *, at_least: int) -> None:
    assert found.lost is None, "\n".join(found.lost)
    assert found.stuck == 0
    assert found.states >= at_least
