"""Tasks: named handlers, and the registry in which a worker finds them. A row never names code, only a task."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from types import GenericAlias
from typing import Any, Generic, Never, ParamSpec, TypeVar, Unpack, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from pushq.backoff import Backoff, exponential
from pushq.errors import PayloadError, TasksError
from pushq.handler import caller, code_of, is_async, parameters_of, place_of
from pushq.job import NewJob
from pushq.lifespan import Lifespan, asked_for, misfit, resources_here
from pushq.middleware import Middleware
from pushq.roundtrip import Check, alike, doubts, loses, read, unreadable
from pushq.storable import refuse_nul

P = ParamSpec("P")
R = TypeVar("R")
L = TypeVar("L", bound=Callable[..., Any])
M = TypeVar("M", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, eq=False)
class Task(Generic[P, R]):
    """A named handler, made by `Tasks.register`. A call runs the function itself, as in a test.

    name: the task's name. queue: the queue of jobs built in Python. max_attempts: failures after which a job is failed.
    timeout: limit of one attempt; None: no limit. backoff: failures so far → delay. original: the function. is_async:
    whether the function is an `async def`.
    """

    name: str
    original: Callable[P, R]
    function: Callable[P, R]  # as a worker calls the handler
    queue: str
    max_attempts: int
    timeout: timedelta | None
    backoff: Backoff
    signature: inspect.Signature
    payload_model: type[BaseModel]
    parameters: tuple[tuple[str, str], ...]  # (parameter, field in payload_model)
    resources: Mapping[str, Any]  # parameters that the lifespan fills, each with its type
    doubts: Mapping[str, Check]  # fields whose values may come back changed from JSON
    is_async: bool

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.original(*args, **kwargs)

    def job(self, /, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """A job that calls the handler with these arguments, on the task's queue. Nothing is inserted.

        Raises PayloadError when the arguments do not fit the annotations, cannot be JSON, or would reach the handler
        changed.
        """
        given = self._given(*args, **kwargs)
        model = self._checked(self.payload_model.__pydantic_validator__.validate_python, given)
        try:
            text, doubtful = self._written(model)
            payload = read(text)
            refuse_nul(text.decode())
        except (ValueError, TypeError) as error:
            raise PayloadError(f"Arguments of task {self.name!r} cannot be JSON: {error}.") from None
        if doubtful:
            self._refuse_changed(doubtful, given, model, text)
        return NewJob(self.name, payload, queue=self.queue)

    def arguments(self, payload: str) -> dict[str, Any]:
        """The handler's arguments, from a payload's JSON text.

        Raises PayloadError, which names the field and never shows the value. A ValueError of the user's validator is
        quoted. Any other exception of a validator raises PayloadError as well.
        """
        model = self._checked(self.payload_model.__pydantic_validator__.validate_json, payload)
        values = vars(model)
        arguments = {argument: values[name] for argument, name in self.parameters}
        if self.resources:
            arguments |= dict.fromkeys(self.resources, resources_here())
        return arguments if model.model_extra is None else arguments | model.model_extra

    def _given(self, /, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        try:
            given = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise PayloadError(f"Arguments do not fit task {self.name!r}: {error}.") from None
        if len(self.parameters) < len(self.signature.parameters):  # **kwargs come as one argument, in the last place
            given |= given.pop(next(reversed(self.signature.parameters)), {})
        return given

    def _checked(self, check: Callable[[Any], BaseModel], given: object) -> BaseModel:
        try:
            return check(given)
        except ValidationError as error:
            raise PayloadError(self._complaint(error)) from None
        except RecursionError:
            raise PayloadError(f"The payload of task {self.name!r} is nested too deeply to be checked.") from None
        except MemoryError:
            raise
        except Exception as error:  # a validator is the user's code, and must hurt only its own job
            raise PayloadError(f"A validator of task {self.name!r} raised {type(error).__name__}.") from error

    def _complaint(self, error: ValidationError) -> str:
        faults = error.errors(include_url=False, include_input=False)[:10]
        if faults[0]["type"] == "json_invalid":
            reason = unreadable(faults[0]["ctx"]["error"])
            return f"The payload of task {self.name!r} cannot be read: {reason}."
        told = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'payload'}: {fault['msg']}" for fault in faults)
        return f"The payload does not fit task {self.name!r}: {told}."

    def _written(self, model: BaseModel) -> tuple[bytes, Collection[str]]:
        """The payload's text, and the names of fields that must be read back to see whether they change."""
        given, values = model.model_fields_set, vars(model)
        write = self.payload_model.__pydantic_serializer__.to_json
        # An omitted argument stays out, for the handler's own default. A default inside of a value is filled in here.
        try:
            text = write(model, by_alias=True, include=given, round_trip=True, warnings="error")
        except PydanticSerializationError:  # perhaps a model was changed since its validation
            return write(model, by_alias=True, include=given, round_trip=True, warnings="none"), given
        if not self.doubts and not model.model_extra:
            return text, ()
        doubtful = [name for name, is_sure in self.doubts.items() if name in given and not is_sure(values[name])]
        return text, doubtful + list(model.model_extra or ())

    def _refuse_changed(
        self, names: Collection[str], given: Mapping[str, Any], model: BaseModel, payload: bytes
    ) -> None:
        """Raises PayloadError if an argument would reach the handler changed."""
        try:
            back = self._checked(self.payload_model.__pydantic_validator__.validate_json, payload)
        except PayloadError as error:
            raise PayloadError(f"The handler could not read what JSON would hold of these arguments: {error}") from None
        arguments = {field: argument for argument, field in self.parameters}
        for name in names:
            argument = arguments.get(name, name)  # each of **kwargs has its own name
            was, comes = _value(model, name), _value(back, name)
            if alike(given[argument], comes) or (alike(was, comes) and not loses(given[argument], comes)):
                continue
            raise PayloadError(
                f"Argument {argument!r} of task {self.name!r} would reach the handler as something else than was "
                f"given: {_change(was, comes)}."
            )


def _value(model: BaseModel, name: str) -> object:
    values = vars(model)
    return values[name] if name in values else (model.model_extra or {})[name]


def _change(was: object, comes: object) -> str:
    """What changes, without the value, which may be a secret."""
    kind, other = type(was).__name__, type(comes).__name__
    if kind != other:
        return f"a {kind} comes back from JSON as a {other}; pass a {other}, or annotate the parameter as {kind}"
    return f"JSON does not hold all of this {kind}; pass what it is made of, or give it a serializer that writes all"


_NO_FUNCTION: Any = None
"""The argument of a decorator that is called with empty brackets."""


class Tasks:
    """The registry of tasks for `pushq supervise MODULE:TASKS`."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}
        self.lifespan_of_app: Lifespan | None = None
        self.middleware_of_app: Middleware | None = None

    def register(
        self,
        name: str,
        *,
        queue: str = "default",
        max_attempts: int = 5,
        timeout: timedelta | None = None,
        backoff: Backoff | None = None,
        **unknown: Never,
    ) -> Callable[[Callable[P, R]], Task[P, R]]:
        """Registers a function as the handler of task `name`.

        `async def` runs on the event loop, `def` in a thread. queue: for jobs built in Python. max_attempts: failures
        after which a job is failed. timeout: limit of one attempt; None: no limit. backoff: failures so far → delay;
        the default doubles from 2 seconds to an hour. Raises TasksError for a function or option that cannot work.
        """
        _refuse_unknown(name, unknown)
        _check_options(name, queue, max_attempts, timeout, backoff)

        def decorate(function: Callable[P, R]) -> Task[P, R]:
            if isinstance(function, Task):  # one function under two names
                function = function.original
            parameters, hints = parameters_of(name, function), _hints(name, function)
            resources = asked_for(hints)
            filled = [parameter for parameter in parameters if parameter.name not in resources]
            model = _model(name, function, filled, hints)
            task: Task[P, R] = Task(
                name,
                function,
                caller(name, function),
                queue,
                max_attempts,
                timeout,
                backoff or exponential(),
                signature=inspect.Signature(filled),
                payload_model=model,
                parameters=tuple((field.alias or own, own) for own, field in model.model_fields.items()),
                resources=resources,
                doubts=doubts(model),
                is_async=is_async(function),
            )
            return self._add(task)

        return decorate

    def lifespan(self, function: L = _NO_FUNCTION) -> L:
        """Registers what handlers share: an async context manager, or an async generator that yields once.

        Each pool enters the lifespan before its first claim, and leaves the lifespan after the last outcome is written,
        also after SIGTERM. Handlers get its value as an argument `name: Resource[Type]`, or by
        `current_job().resources`. A lifespan that raises ends the pool, with its traceback, and no job is charged.
        Leaving counts into the grace period, and is cut at the deadline. Raises TasksError for a second lifespan, and
        for what cannot work.
        """
        self.lifespan_of_app = self._only("lifespan", self.lifespan_of_app, function, 0)
        return function

    def middleware(self, function: M = _NO_FUNCTION) -> M:
        """Registers what is entered before each attempt and left after: an async context manager that takes the Job,
        or an async generator that takes the Job and yields once.

        An exception of the handler, also Retry and Cancel, is raised at the `yield`. What the middleware raises in its
        place is the attempt's error. An exception that the middleware swallows counts all the same. Context variables
        that the middleware sets are seen by the handler. A task's timeout limits the handler alone. Raises TasksError
        for a second middleware, and for what cannot work.
        """
        self.middleware_of_app = self._only("middleware", self.middleware_of_app, function, 1)
        return function

    def _only(self, kind: str, other: Callable[..., Any] | None, function: Any, arguments: int) -> Callable[..., Any]:
        """The function as a maker of context managers. Raises TasksError."""
        _check_context(kind, function, arguments)
        if other:
            raise TasksError(
                f"There are two functions under @tasks.{kind}: {place_of(other)} and {place_of(function)}; "
                "enter one inside of the other."
            )
        return asynccontextmanager(function) if inspect.isasyncgenfunction(function) else function

    def misfit(self, value: object = None) -> TasksError | None:
        """What is wrong with resources that tasks ask for: there is no lifespan, or its value is of another type."""
        for task in self:
            for parameter, kind in task.resources.items():
                if not self.lifespan_of_app:
                    return TasksError(
                        f"Task {task.name!r}: parameter {parameter!r} is a resource, and there is no lifespan; "
                        "put @tasks.lifespan above an async context manager that yields it."
                    )
                if value is not None and misfit(value, kind):
                    return TasksError(
                        f"Task {task.name!r}: parameter {parameter!r} is to be a {getattr(kind, '__name__', kind)}, "
                        f"and the lifespan yields a {type(value).__name__}."
                    )
        return None

    def _add(self, task: Task[P, R]) -> Task[P, R]:
        if other := self._tasks.get(task.name):
            places = f"{place_of(other.original)} and {place_of(task.original)}"
            raise TasksError(f"Two tasks are named {task.name!r}: {places}; rename one.")
        self._tasks[task.name] = task
        return task

    def find(self, name: str) -> Task[..., Any]:
        """The task `name`. Raises TasksError, which suggests a similar name."""
        try:
            return self._tasks[name]
        except KeyError:
            close = difflib.get_close_matches(name, self._tasks, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise TasksError(f"No task named {name!r} is registered{hint}") from None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tasks, sorted."""
        return tuple(sorted(self._tasks))

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues of all tasks, sorted."""
        return tuple(sorted({task.queue for task in self._tasks.values()}))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(queue, name) of each task."""
        return tuple(sorted((task.queue, task.name) for task in self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(self._tasks.values())


_OPTIONS = ("queue", "max_attempts", "timeout", "backoff")
_ELSEWHERE = {
    "attempts": "max_attempts", "max_retries": "max_attempts", "max_tries": "max_attempts", "retries": "max_attempts",
    "retry": "max_attempts", "deadline": "timeout", "job_timeout": "timeout", "time_limit": "timeout",
    "countdown": "backoff", "retry_backoff": "backoff", "retry_delay": "backoff", "wait": "backoff",
    "lane": "queue", "queue_name": "queue",
}  # fmt: skip
"""Other job queues' names for the options."""


def _refuse_unknown(name: object, options: Iterable[str]) -> None:
    for option in options:
        raise TasksError(f"Task {name!r}: register() has no option {option!r}; {_remedy(option)}")


def _remedy(option: str) -> str:
    if option in {column.name for column in fields(NewJob)}:
        return f"a job has it: dataclasses.replace(task.job(…), {option}=…)."
    close = [_ELSEWHERE[option]] if option in _ELSEWHERE else difflib.get_close_matches(option, _OPTIONS, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(_OPTIONS)}."


def _check_options(
    name: str, queue: str, max_attempts: int, timeout: timedelta | None, backoff: Backoff | None
) -> None:
    if callable(name):
        raise TasksError(f"A task needs a name; write @tasks.register('a.name') above {place_of(name)}.")
    if not _is_name(name):
        raise TasksError(f"A task's name has 1 to 200 printable characters, not {name!r}.")
    if not _is_name(queue):
        raise TasksError(f"Task {name!r}: a queue's name has 1 to 200 printable characters, not {queue!r}.")
    if isinstance(max_attempts, bool) or not isinstance(max_attempts, int) or not 1 <= max_attempts <= 10_000:
        raise TasksError(f"Task {name!r}: max_attempts is between 1 and 10,000, not {max_attempts!r}.")
    if timeout is not None and (not isinstance(timeout, timedelta) or timeout <= timedelta(0)):
        raise TasksError(f"Task {name!r}: timeout is a timedelta above zero, or None, not {timeout!r}.")
    if backoff is not None and not callable(backoff):
        raise TasksError(f"Task {name!r}: backoff is a function, for example exponential(), not {backoff!r}.")


def _is_name(name: object) -> bool:
    """Refuses, among others, NUL and lone surrogates, which PostgreSQL does not take, and line breaks, for the log."""
    return isinstance(name, str) and 1 <= len(name) <= 200 and name.isprintable()


def _check_context(kind: str, function: Any, arguments: int) -> None:
    if function is _NO_FUNCTION:
        raise TasksError(f"@tasks.{kind}() has brackets; write @tasks.{kind} above the function.")
    if not callable(function):
        raise TasksError(f"@tasks.{kind} stands above a function, not {function!r}.")
    place = place_of(function)
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(inspect.unwrap(function)):
        raise TasksError(f"@tasks.{kind}: {place} is no async context manager; write `async def` with one `yield`.")
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError:
        takes = "takes the Job alone" if arguments else "takes no argument"
        raise TasksError(f"@tasks.{kind}: {place} must be one that {takes}.") from None


def _model(
    name: str, function: Callable[..., object], parameters: Iterable[inspect.Parameter], hints: Mapping[str, Any]
) -> type[BaseModel]:
    """A pydantic model with a field for each of these parameters: the payload's keys are the handler's arguments."""
    fields: dict[str, Any] = {}
    config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,  # infinity is also how a number of 400 digits would be read
        ser_json_inf_nan="constants",  # else NaN becomes null in values without annotation
    )
    for number, parameter in enumerate(parameters):
        _check_parameter(f"Task {name!r}: parameter {parameter.name!r} of {place_of(function)}", parameter)
        hint = hints.get(parameter.name, Any)
        if parameter.kind is not parameter.VAR_KEYWORD:
            # Fields have neutral names, since pydantic refuses some names that are fine for parameters.
            fields[f"argument_{number}"] = (hint, _field(parameter))
        else:
            config["extra"] = "allow"
            fields["__pydantic_extra__"] = (GenericAlias(dict, (str, Any if get_origin(hint) is Unpack else hint)), ...)
    try:
        model = create_model("Payload", __config__=config, **fields)
        model.model_rebuild()  # raises for an undefined annotation inside of an annotation
    except Exception as error:
        raise TasksError(
            f"Task {name!r}: {place_of(function)} has an annotation that JSON cannot fill: {_unfillable(error)}"
        ) from error
    return model


_NO_SCHEMA = re.compile(r"Unable to generate pydantic-core schema for (.+?)\. Set ")


def _unfillable(error: Exception) -> str:
    reason = str(error).partition("\n")[0]
    if found := _NO_SCHEMA.match(reason):
        return f"{found[1]}; use a dataclass or a pydantic model, or Resource[…] for what the lifespan yields."
    return reason


def _check_parameter(subject: str, parameter: inspect.Parameter) -> None:
    if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
        raise TasksError(f"{subject} can only be given by position, and a payload has names; make it an ordinary one.")
    if isinstance(parameter.default, FieldInfo):  # a direct call would get the Field itself
        raise TasksError(f"{subject} has a Field for its default; write Annotated[type, Field(…)] = default.")


def _field(parameter: inspect.Parameter) -> Any:
    name = parameter.name
    default = ... if parameter.default is parameter.empty else parameter.default
    return Field(default, alias=name, validation_alias=name, serialization_alias=name)


def _hints(name: str, function: Callable[..., object]) -> dict[str, Any]:
    try:
        return get_type_hints(code_of(function), include_extras=True)
    except Exception as error:  # an annotation is evaluated, and may raise anything
        raise TasksError(
            f"Task {name!r}: an annotation of {place_of(function)} cannot be resolved: {error}; "
            "define or import what it names above the handler, not only for type checkers."
        ) from error
