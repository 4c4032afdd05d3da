"""Batches: a handler that takes many jobs of one task at once, `async def send(jobs: list[Job[Mail]]) -> list[…]`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, get_args, get_origin
from uuid import UUID

from pydantic import AliasChoices, AliasPath, BaseModel

from pushq.errors import PayloadError, TasksError
from pushq.handler import place_of
from pushq.job import Job
from pushq.lifespan import asked_for, resources_here
from pushq.payload import PayloadForm, hints_of, parts_of

LARGEST_BATCH = 2000
"""Jobs in a batch, at most: as many as a claim brings."""
_PAYLOAD = inspect.Parameter("payload", inspect.Parameter.POSITIONAL_OR_KEYWORD)
"""Stands for the payload of one job, which is checked as if the payload were the handler's only argument."""
_LISTS = (list, Sequence, Collection, Iterable)


@dataclass(frozen=True, slots=True, eq=False)
class BatchForm(PayloadForm):
    """Turns one job's arguments into a payload, and a claimed job into an item of the handler's list.

    jobs: the handler's parameter for the list. names: the known keys of a payload. Other keys are refused, since
    pydantic's models would ignore a misspelt key.
    """

    jobs: str
    names: frozenset[str]

    def payload(self, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The payload of one job: the one argument, or the fields by name. Raises PayloadError."""
        if len(args) > 1 or (args and kwargs):
            raise PayloadError(f"Task {self.task!r} takes batches: give the payload of one job, or its fields by name.")
        given = args[0] if args else kwargs
        payload = PayloadForm.payload(self, payload=given)["payload"]
        if isinstance(given, dict) and self.names and (unknown := given.keys() - self.names):
            raise PayloadError(f"The payload of task {self.task!r} has no {min(unknown, key=str)!r}.")
        if not isinstance(payload, dict):
            raise PayloadError(f"The payload of task {self.task!r} is to be an object, not {type(payload).__name__}.")
        return payload

    def decoded(self, job: Job) -> Job:
        """A claimed job as the handler gets the job. Raises PayloadError, like `arguments`."""
        model = self._checked(self.model.__pydantic_validator__.validate_json, f'{{"payload":{job.payload}}}')
        return job._replace(payload=vars(model)[self.parameters[0][1]])

    def call_with(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """The handler's arguments for a batch of decoded jobs."""
        return {self.jobs: list(jobs)} | {name: resources_here() for name in self.resources}


def batch_form_of(name: str, function: Callable[..., object], parameters: Sequence[inspect.Parameter]) -> BatchForm:
    """The form for a handler of batches with these parameters. Raises TasksError."""
    hints = hints_of(name, function)
    resources = asked_for(hints)
    lists = [parameter for parameter in parameters if parameter.name not in resources]
    if len(lists) != 1 or lists[0].kind not in (_PAYLOAD.kind, inspect.Parameter.KEYWORD_ONLY):
        raise TasksError(
            f"Task {name!r}: {place_of(function)} takes batches, and so one argument, `jobs: list[Job[…]]`, beside "
            "resources."
        )
    one = _payload_in(name, function, lists[0].name, hints)
    parts = parts_of(name, function, [_PAYLOAD], {"payload": one}, resources)
    return BatchForm(**parts, jobs=lists[0].name, names=_names(_plain(one)))


def _payload_in(name: str, function: Callable[..., object], jobs: str, hints: Mapping[str, Any]) -> Any:
    """The type of a job's payload: T in `jobs: list[Job[T]]`; a dict without annotation."""
    hint = _plain(hints.get(jobs, list))
    item = _plain((get_args(hint) or (Job,))[0])
    where = f"Task {name!r}: parameter {jobs!r} of {place_of(function)} takes a batch"
    if (get_origin(hint) or hint) not in _LISTS or (get_origin(item) or item) is not Job:
        raise TasksError(f"{where}; annotate it as list[Job[T]], with T for the payload of one job.")
    one = (get_args(item) or (dict[str, Any],))[0]
    kind = get_origin(_plain(one)) or _plain(one)
    if kind in _NO_OBJECTS or (isinstance(kind, type) and issubclass(kind, _NO_OBJECTS)):
        raise TasksError(f"{where}, and a payload is an object, never a {getattr(kind, '__name__', kind)}.")
    return one


def _plain(hint: Any) -> Any:
    """A type without what Annotated adds."""
    return _plain(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


_NO_OBJECTS = (
    int,
    float,
    str,
    bytes,
    list,
    tuple,
    set,
    frozenset,
    type(None),
    date,
    time,
    timedelta,
    Decimal,
    Enum,
    UUID,
)
"""Types whose values JSON does not write as objects."""


def _names(kind: Any) -> frozenset[str]:
    """The keys that pydantic takes for fields of a model; none for other types, or if the model takes any key."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)) or kind.model_config.get("extra") == "allow":
        return frozenset()
    names = set[str]()
    for name, field in kind.model_fields.items():
        other = field.validation_alias
        names |= {name, field.alias or name}
        if isinstance(other, AliasChoices | AliasPath):
            return frozenset()
        names |= {other} if other else set()
    return frozenset(names)
