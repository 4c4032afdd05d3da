"""What handlers of this process have told of their progress, and the pool has not written yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final, NamedTuple
from uuid import UUID

from pushq.storable import json_text, storable_text

LONGEST_MESSAGE = 1_000
LONGEST_PHASE = 200
LARGEST_CHECKPOINT = 64 * 1024
"""Bytes of a checkpoint's JSON."""
MOST = 1e300
"""Below this, a number stays a number in JSON."""
UNCHANGED: Final[Any] = object()
"""The checkpoint of a call that gives none."""

Fence = tuple[UUID, UUID]


class Unwritten(NamedTuple):
    """progress: JSON text. phases: the changes of phase since the last write, in order."""

    fence: Fence
    progress: str
    phases: tuple[str, ...]


@dataclass(slots=True)
class _Told:
    values: dict[str, Any]
    phases: list[str] = field(default_factory=list)
    is_unwritten: bool = False


class Ledger:
    """By claim, from the first call to the end of the handler. Handlers call from any thread."""

    def __init__(self) -> None:
        self.told: dict[Fence, _Told] = {}
        self.noticed: Callable[[], object] = lambda: None
        """Called after each call of a handler."""
        self.phase_noticed: Callable[[], object] = lambda: None
        """Called after a call of a handler that changed the phase."""
        self._lock = Lock()

    def tell(self, fence: Fence, saved: Callable[[], dict[str, Any]], values: dict[str, Any]) -> None:
        """Merges what a call has given with what was given before. saved: what an earlier attempt has left."""
        with self._lock:
            told = self.told.get(fence)
            if told is None:
                told = self.told[fence] = _Told(saved())
            phase_is_new = values.get("phase", told.values.get("phase")) != told.values.get("phase")
            if phase_is_new:
                told.phases.append(values["phase"])
            told.values.update(values)
            told.is_unwritten = True
        (self.phase_noticed if phase_is_new else self.noticed)()

    def take(self) -> list[Unwritten]:
        """What is to be written now, ordered by id."""
        with self._lock:
            taken = [
                Unwritten(fence, json_text(told.values), tuple(told.phases))
                for fence, told in sorted(self.told.items())
                if told.is_unwritten
            ]
            for one in taken:
                told = self.told[one.fence]
                told.is_unwritten, told.phases = False, []
        return taken

    def put_back(self, taken: Iterable[Unwritten]) -> None:
        """These could not be written, and are to be written again."""
        with self._lock:
            for one in taken:
                if told := self.told.get(one.fence):
                    told.is_unwritten = True
                    told.phases[:0] = one.phases

    def close(self, fences: Sequence[Fence]) -> list[Unwritten]:
        """The handlers of these claims have ended. Returns what is still unwritten."""
        left = []
        with self._lock:
            for fence in fences:
                told = self.told.pop(fence, None)
                if told and told.is_unwritten:
                    left.append(Unwritten(fence, json_text(told.values), tuple(told.phases)))
        return left


ledger = Ledger()


def checked(
    done: float | None, total: float | None, message: str | None, phase: str | None, checkpoint: Any
) -> dict[str, Any]:
    """The values that were given, as they are kept. Raises ValueError or TypeError for what cannot be kept."""
    values: dict[str, Any] = {}
    for name, number in (("done", done), ("total", total)):
        if number is not None:
            values[name] = _number(name, number)
    if message is not None:
        values["message"] = storable_text(_text("message", message), LONGEST_MESSAGE)
    if phase is not None:
        if not 1 <= len(_text("phase", phase)) <= LONGEST_PHASE or storable_text(phase) != phase:
            raise ValueError(f"progress(phase={phase[:50]!r}): a phase is a name of 1 to {LONGEST_PHASE} characters.")
        values["phase"] = phase
    if checkpoint is not UNCHANGED:
        text = _checkpoint(checkpoint)
        if (size := len(text.encode())) > LARGEST_CHECKPOINT:
            raise ValueError(
                f"progress(checkpoint=…): {size:,} bytes of JSON are over 64 KiB; keep a reference instead."
            )
        values["checkpoint"] = json.loads(text)  # a copy: the handler may change its own value
    return values


def _checkpoint(value: Any) -> str:
    try:
        return json_text(value)
    except RecursionError:
        raise ValueError("progress(checkpoint=…): the value is nested too deep for JSON.") from None


def _number(name: str, number: float) -> float:
    if type(number) not in (int, float):
        raise TypeError(f"progress({name}={number!r}): give a number, not a {type(number).__name__}.")
    if not 0 <= number < MOST:
        raise ValueError(f"progress({name}={number!r:.50}): give a number from 0 on, below 1e300.")
    return number


def _text(name: str, text: str) -> str:
    if type(text) is not str:
        raise TypeError(f"progress({name}={text!r}): give a str, not a {type(text).__name__}.")
    return text
