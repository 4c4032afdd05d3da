"""Tasks: named handlers, and the registry in which a worker finds them. A row never names code, only a task."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Never, ParamSpec, TypeAlias, TypeVar, overload

from pushq.backoff import Backoff, exponential
from pushq.batch import LARGEST_BATCH, batch_form_of
from pushq.errors import PayloadError, ScheduleError, TasksError
from pushq.handler import caller, is_async, parameters_of, place_of
from pushq.job import NewJob
from pushq.lifespan import Lifespan, misfit
from pushq.middleware import Middleware
from pushq.needs import Needs, refuse_broken, units_of
from pushq.once import yielding_once
from pushq.outcome import Cancel, Retry
from pushq.payload import PayloadForm, form_of
from pushq.retries import Retries
from pushq.schedules import MISSED, Declaration, Missed, read

P = ParamSpec("P")
R = TypeVar("R")
L = TypeVar("L", bound=Callable[..., Any])
T = TypeVar("T")
M = TypeVar("M", bound=Callable[..., Any])

Errors: TypeAlias = type[BaseException] | Sequence[type[BaseException]]
"""Classes of errors."""


@dataclass(frozen=True, slots=True, eq=False)
class Task(Generic[P, R]):
    """A named handler, made by `Tasks.register`. A call runs the function itself, as in a test.

    name: the task's name. queue: the queue of jobs built in Python. max_attempts: failures after which a job is failed.
    timeout: limit of one attempt; None: no limit. backoff: failures so far → delay. retries: with both, and the classes
    of errors that decide. original: the function. is_async: whether the function is an `async def`. batch: how many
    jobs the handler takes at once, at most; None: one job. needs: what each job of the task needs beside its own needs.
    transactional: whether the handler may have a connection whose transaction ends the job.
    """

    name: str
    original: Callable[P, R]
    function: Callable[P, R]  # as a worker calls the handler
    queue: str
    timeout: timedelta | None
    retries: Retries
    form: PayloadForm
    is_async: bool
    batch: int | None = None
    needs: Mapping[str, int] | None = None
    transactional: bool = False

    @property
    def max_attempts(self) -> int:
        """Failures after which a job is failed."""
        return self.retries.max_attempts

    @property
    def backoff(self) -> Backoff:
        """Failures so far → delay."""
        return self.retries.backoff

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.original(*args, **kwargs)

    if not TYPE_CHECKING:  # type checkers know that the attribute does not exist

        def __getattr__(self, name: str) -> Never:
            instead = "; write `await Queue().insert(task.job(…), connection=connection)`" if name in _SENDING else ""
            raise AttributeError(f"A Task has no {name!r}{instead}.")

    def job(self, /, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """A job that calls the handler with these arguments, on the task's queue. Nothing is inserted.

        If the handler takes batches, the argument is the payload of one job, or its fields by name. Raises PayloadError
        when the arguments do not fit the annotations, cannot be JSON, or would reach the handler changed.
        """
        return NewJob(self.name, self.form.payload(*args, **kwargs), queue=self.queue)

    def arguments(self, payload: str) -> dict[str, Any]:
        """The handler's arguments, from a payload's JSON text.

        Raises PayloadError, which names the field and never shows the value. A ValueError of the user's validator is
        quoted. Any other exception of a validator raises PayloadError as well.
        """
        return self.form.arguments(payload)


_SENDING = ("apply_async", "defer", "defer_async", "delay", "enqueue", "kick", "kiq", "push", "send", "spawn", "submit")
"""Other job queues' names for an insertion."""

_NO_FUNCTION: Any = None
"""The argument of a decorator that is called with empty brackets."""


class Tasks:
    """The registry of tasks for `pushq supervise MODULE:TASKS`."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}
        self._schedules: dict[str, Declaration] = {}
        self.lifespan_of_app: Lifespan | None = None
        self.middleware_of_app: Middleware | None = None

    @overload
    def register(
        self,
        name: str,
        *,
        queue: str = "default",
        max_attempts: int = 5,
        timeout: timedelta | None = None,
        backoff: Backoff | None = None,
        retry_on: Errors | None = None,
        fail_on: Errors = (),
        needs: Needs | None = None,
        transactional: bool = False,
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...

    @overload
    def register(
        self,
        name: str,
        *,
        batch: int,
        queue: str = "default",
        max_attempts: int = 5,
        timeout: timedelta | None = None,
        backoff: Backoff | None = None,
        retry_on: Errors | None = None,
        fail_on: Errors = (),
        needs: Needs | None = None,
    ) -> Callable[[Callable[..., R]], Task[..., R]]: ...

    def register(
        self,
        name: str,
        *,
        queue: str = "default",
        max_attempts: int = 5,
        timeout: timedelta | None = None,
        backoff: Backoff | None = None,
        retry_on: Errors | None = None,
        fail_on: Errors = (),
        needs: Needs | None = None,
        batch: int | None = None,
        transactional: bool = False,
        **unknown: Never,
    ) -> Callable[[Callable[P, R]], Task[P, R]]:
        """Registers a function as the handler of task `name`.

        `async def` runs on the event loop, `def` in a thread. queue: for jobs built in Python. max_attempts: failures
        after which a job is failed. timeout: limit of one attempt; None: no limit. backoff: failures so far → delay;
        the default doubles from 2 seconds to an hour. retry_on, fail_on: classes of errors, one or a tuple; an error of
        fail_on fails the job at once, and with retry_on so does every error that is not listed; of classes in both
        lists, the nearest to the error's own counts. needs: what each job of the task holds while it runs, `{"gpu": 2}`
        or `["gpu"]`, beside the needs of the job, which count where both name the same. batch: the handler takes a list
        of up to `batch` jobs, at most 2,000, and returns an item for each, or None. An item is a job's result. An
        exception, also Retry and Cancel, counts as if the job had raised it. transactional: the handler, an `async
        def`, may have a connection of `await current_job().connection()`, whose writes are committed together with the
        end of the job. Raises TasksError for a function or option that cannot work.
        """
        _refuse_unknown(name, unknown)
        _check_options(name, queue, max_attempts, timeout, backoff, batch)
        retries = Retries(
            max_attempts,
            backoff or exponential(),
            () if retry_on is None else _errors_to_retry(name, retry_on),
            _classes(name, "fail_on", fail_on),
        )
        _refuse_both(name, retries)
        units = None if needs is None else _units(name, needs)

        def decorate(function: Callable[P, R]) -> Task[P, R]:
            if isinstance(function, Task):  # one function under two names
                function = function.original
            form = (batch_form_of if batch else form_of)(name, function, parameters_of(name, function))
            if transactional:
                _check_transactional(name, function, transactional, batch)
            task: Task[P, R] = Task(
                name,
                function,
                caller(name, function),
                queue,
                timeout,
                retries,
                form,
                is_async(function),
                batch,
                units,
                transactional,
            )
            return self._add(task)

        return decorate

    def schedule(
        self,
        cron: str | None = None,
        *,
        every: timedelta | None = None,
        tz: str = "UTC",
        name: str | None = None,
        payload: Mapping[str, Any] | None = None,
        queue: str | None = None,
        needs: Needs | None = None,
        missed: Missed = "once",
    ) -> Callable[[T], T]:
        """Declares a schedule of the task below it. May stand several times above a task, under different names.

        Every pool writes the declared schedules into `pushq.schedules` when it starts. cron: five fields, or `@daily`
        and the like. every: an interval in place of a cron expression, 1 second to 3660 days; a day is 24 hours. tz:
        the time zone of the cron expression. name: by default the task's. payload: the handler's arguments,
        `{"user_id": 7}`. queue: by default the task's. needs: of each job, beside the needs of the task. missed: what
        becomes of slots for which no supervisor was there: `once`, one job for all of them; `skip`, none; `all`, a job
        for each of the last 31 days. Raises TasksError for what cannot be read, a payload that does not fit the
        handler, and a second schedule of the name.
        """

        def declare(task: T) -> T:
            if not isinstance(task, Task):
                raise TasksError("@tasks.schedule(…) stands above @tasks.register(…), not below.")
            its_name = task.name if name is None else name
            _check_schedule(its_name, queue, missed)
            if its_name in self._schedules:
                raise TasksError(f"Two schedules are named {its_name!r}; give one another name, name='…'.")
            try:
                read(cron, tz, every)
                text = json.dumps(dict(task.job(**dict(payload or {})).payload))
            except (ScheduleError, PayloadError) as error:
                raise TasksError(f"Schedule {its_name!r}: {error}") from None
            units = None if needs is None else _units(its_name, needs)
            self._schedules[its_name] = Declaration(
                its_name, task.name, cron, tz, every, text, queue or task.queue, units, missed
            )
            return task

        return declare

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
        return yielding_once(kind, function) if inspect.isasyncgenfunction(function) else function

    def misfit(self, value: object = None) -> TasksError | None:
        """What is wrong with resources that tasks ask for: there is no lifespan, or its value is of another type."""
        for task in self:
            for parameter, kind in task.form.resources.items():
                if not self.lifespan_of_app:
                    return TasksError(
                        f"Task {task.name!r}: parameter {parameter!r} is a resource, and there is no lifespan; "
                        "put @tasks.lifespan above an async context manager that yields it."
                    )
                if value is not None and misfit(value, kind):
                    return TasksError(
                        f"Task {task.name!r}: parameter {parameter!r} needs a {getattr(kind, '__name__', kind)}, "
                        f"but the lifespan yields a {type(value).__name__}."
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
    def needs(self) -> dict[str, Mapping[str, int]]:
        """What tasks need, by their names. A task that needs nothing is left out."""
        return {task.name: task.needs for task in self if task.needs}

    @property
    def has_transactional(self) -> bool:
        """Whether a handler may ask for a connection."""
        return any(task.transactional for task in self)

    @property
    def schedules(self) -> tuple[Declaration, ...]:
        """The declared schedules, by name."""
        return tuple(self._schedules[name] for name in sorted(self._schedules))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(queue, name) of each task."""
        return tuple(sorted((task.queue, task.name) for task in self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(self._tasks.values())


_OPTIONS = ("queue", "max_attempts", "timeout", "backoff", "retry_on", "fail_on", "needs", "batch", "transactional")
_ELSEWHERE = {
    "attempts": "max_attempts", "max_retries": "max_attempts", "max_tries": "max_attempts", "retries": "max_attempts",
    "retry": "max_attempts", "deadline": "timeout", "job_timeout": "timeout", "time_limit": "timeout",
    "countdown": "backoff", "retry_backoff": "backoff", "retry_delay": "backoff", "wait": "backoff",
    "autoretry_for": "retry_on", "retry_exceptions": "retry_on", "retry_for": "retry_on",
    "dont_autoretry_for": "fail_on", "no_retry_on": "fail_on",
    "need": "needs", "requires": "needs", "resources": "needs",
    "lane": "queue", "queue_name": "queue", "batch_size": "batch", "max_batch_size": "batch", "chunk": "batch",
    "atomic": "transactional", "in_transaction": "transactional", "transaction": "transactional",
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
    name: str,
    queue: str,
    max_attempts: int,
    timeout: timedelta | None,
    backoff: Backoff | None,
    batch: int | None,
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
        raise TasksError(
            f"Task {name!r}: timeout is a timedelta above zero, for example timedelta(seconds=30), not {timeout!r}."
        )
    if backoff is not None and not callable(backoff):
        raise TasksError(f"Task {name!r}: backoff is a function, for example exponential(), not {backoff!r}.")
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= LARGEST_BATCH):
        raise TasksError(f"Task {name!r}: batch is between 1 and {LARGEST_BATCH:,}, not {batch!r}.")


def _check_transactional(name: str, function: Callable[..., object], transactional: object, batch: int | None) -> None:
    if transactional is not True:
        raise TasksError(f"Task {name!r}: transactional is True or False, not {transactional!r}.")
    if batch is not None:
        raise TasksError(
            f"Task {name!r}: a transactional handler takes one job, whose transaction it is; leave batch out."
        )
    if not is_async(function):
        raise TasksError(
            f"Task {name!r}: transactional=True needs an `async def`, since the connection is asyncpg's; "
            f"{place_of(function)} is a `def`."
        )


def _check_schedule(name: str, queue: str | None, missed: str) -> None:
    if not _is_name(name):
        raise TasksError(f"A schedule's name has 1 to 200 printable characters, not {name!r}.")
    if queue is not None and not _is_name(queue):
        raise TasksError(f"Schedule {name!r}: a queue's name has 1 to 200 printable characters, not {queue!r}.")
    if queue == "pushq.webhooks":
        raise TasksError(f"Schedule {name!r}: the queue 'pushq.webhooks' is for pushq's deliveries alone.")
    if missed not in MISSED:
        raise TasksError(f"Schedule {name!r}: missed is {', '.join(map(repr, MISSED))}, not {missed!r}.")


def _errors_to_retry(name: str, errors: Errors) -> tuple[type[BaseException], ...]:
    classes = _classes(name, "retry_on", errors)
    if not classes:
        raise TasksError(
            f"Task {name!r}: retry_on names no class of errors; to retry none, give max_attempts=1; to retry all, "
            "leave retry_on out."
        )
    for one in classes:
        if issubclass(one, PayloadError):
            raise TasksError(f"Task {name!r}: a {one.__name__} fails its job at once; leave it out of retry_on.")
    return classes


def _classes(name: str, option: str, errors: Errors) -> tuple[type[BaseException], ...]:
    classes = errors if isinstance(errors, tuple | list) else (errors,)
    for one in classes:
        if not isinstance(one, type) or not issubclass(one, BaseException):
            raise TasksError(
                f"Task {name!r}: {option} takes classes of errors, as in {option}=(ConnectionError,), not {one!r}."
            )
        if issubclass(one, (Retry, Cancel)):
            raise TasksError(
                f"Task {name!r}: a {one.__name__} says itself what becomes of its job; leave it out of {option}."
            )
        if issubclass(one, GeneratorExit):
            raise TasksError(f"Task {name!r}: no handler fails by a {one.__name__}; leave it out of {option}.")
    return tuple(classes)


def _refuse_both(name: str, retries: Retries) -> None:
    for one in retries.retry_on:
        if one in retries.fail_on:
            raise TasksError(f"Task {name!r}: {one.__name__} is both in retry_on and in fail_on.")


def _units(name: str, needs: object) -> dict[str, int] | None:
    try:
        units = units_of(needs)
        refuse_broken(units or {})
    except (TypeError, ValueError) as error:
        raise TasksError(f"Task {name!r}: {error}") from None
    return units


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
        takes = "the Job alone" if arguments else "no argument"
        raise TasksError(f"@tasks.{kind}: {place} must take {takes}.") from None
