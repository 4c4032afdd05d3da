"""What the handlers of a process share: an HTTP client, a pool of connections, a model in memory.

An app gives the registry one async context manager, its lifespan. The lifespan's value is the resources. A handler gets
the resources as an argument, `client: Resource[AsyncClient]`, or asks `current_job().resources`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Annotated, Any, Final, TypeAlias, TypeVar, get_args, get_origin

from pushq.errors import PushqError

T = TypeVar("T")


class _FromLifespan:
    """Marks a parameter that the payload does not fill."""


Resource: TypeAlias = Annotated[T, _FromLifespan()]
"""Marks a handler's parameter, `client: Resource[AsyncClient]`: the argument is the value of the lifespan."""

injected: Final[Any] = None
"""A default for a parameter that is a `Resource`, so that type checkers let `task.job(…)` be called without it."""

Lifespan: TypeAlias = Callable[[], AbstractAsyncContextManager[object]]

_resources: ContextVar[object] = ContextVar("pushq_resources")
set_resources = _resources.set


def resources_here() -> Any:
    """The value of the lifespan. Raises PushqError where none was entered."""
    try:
        return _resources.get()
    except LookupError:
        raise PushqError("There are no resources here: put @tasks.lifespan above an async context manager.") from None


def asked_for(hints: Mapping[str, object]) -> dict[str, Any]:
    """The parameters that are resources, each with its type, from a function's hints."""
    return {name: get_args(hint)[0] for name, hint in hints.items() if _is_resource(hint)}


def _is_resource(hint: object) -> bool:
    return get_origin(hint) is Annotated and any(isinstance(one, _FromLifespan) for one in get_args(hint)[1:])


def misfit(value: object, kind: Any) -> bool:
    """Whether a value is certainly not of the type. Of many types nobody can tell at run time."""
    try:
        return not isinstance(value, get_origin(kind) or kind)
    except TypeError:
        return False
