"""Django's Tasks on pushq: enqueued in Django's transaction, run by real supervisors, read from the row.

The cases are those of Django's own tests of its backends (tests/tasks in its source: test_immediate_backend.py,
test_dummy_backend.py, test_custom_backend.py, test_tasks.py), as far as a backend of a database can be put to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync
from psycopg.rows import dict_row

from tests.contrib import project
from tests.support.supervisors import RunningSupervisor, pushq, supervising
from tests.support.waiting import wait_until

project.set_up()

from django.core.exceptions import ImproperlyConfigured  # noqa: E402
from django.db import connections, transaction  # noqa: E402

from pushq.contrib.django import PushqBackend  # noqa: E402
from pushq.contrib.django.api import TaskResultDoesNotExist, task_backends, task_enqueued  # noqa: E402
from pushq.errors import PayloadError  # noqa: E402
from tests.contrib.shop import tasks  # noqa: E402

REGISTRY = "pushq.contrib.django.tasks:tasks"
SUPERVISED = pytest.mark.usefixtures("supervisor")
NO_JOB = "9b2ad1c3-4dc0-4d2f-8c11-0e1f2a3b4c5d"
COUNT = "select count(*) from pushq.jobs"


@pytest.fixture(autouse=True)
def onlooker(database_url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    project.use(database_url)
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("create table users (id bigint generated always as identity primary key, name text)")
        yield connection
    connections.close_all()


@pytest.fixture
def supervisor(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningSupervisor]:
    monkeypatch.setenv("DATABASE_URL", database_url)  # as the project's settings.py reads
    with supervising(database_url, "--concurrency", "4", tasks=REGISTRY) as running:
        yield running


def finished(*results: Any) -> list[Any]:
    """The results once all have finished."""

    def look() -> bool:
        for result in results:
            result.refresh()
        return all(result.is_finished for result in results)

    wait_until(look, within=20)
    return list(results)


# Enqueued -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [tasks.add, tasks.add_on_loop], ids=["def", "async def"])
def test_a_task_is_enqueued_as_a_job(task: Any, onlooker: Any) -> None:
    result = task.enqueue(1, b=2)

    assert (result.status, result.is_finished, result.attempts) == ("READY", False, 0)
    assert (result.task, result.backend, result.args, result.kwargs) == (task, "default", [1], {"b": 2})
    assert (result.started_at, result.finished_at, result.last_attempted_at) == (None, None, None)
    assert (result.errors, result.worker_ids) == ([], [])
    with pytest.raises(ValueError, match="Task has not finished yet"):
        _ = result.return_value
    row = onlooker.execute("select id, task, payload, priority, queue from pushq.jobs").fetchone()
    assert (str(row["id"]), row["task"]) == (result.id, f"tests.contrib.shop.tasks.{task.name}")
    assert row["payload"] == {"args": [1], "kwargs": {"b": 2}}
    assert (row["priority"], row["queue"]) == ((-10, "slow") if task is tasks.add_on_loop else (0, "default"))
    found = task.get_result(result.id)
    assert found == result
    assert (found.task, found.status, found.args, found.kwargs) == (result.task, result.status, [1], {"b": 2})


def test_a_task_is_enqueued_and_found_by_async_functions() -> None:
    result = async_to_sync(tasks.add.aenqueue)(1, b=2)
    found = async_to_sync(tasks.add.aget_result)(result.id)
    async_to_sync(result.arefresh)()

    assert (result.id, result.status) == (found.id, "READY")
    assert result == found


def test_a_task_is_gone_once_django_has_rolled_back(onlooker: Any) -> None:
    with transaction.atomic():
        result = tasks.add.enqueue(1, 2)
        transaction.set_rollback(True)

    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result(result.id)
    assert onlooker.execute(COUNT).fetchone() == {"count": 0}


def test_a_task_is_there_once_django_has_committed(onlooker: Any) -> None:
    with transaction.atomic():
        tasks.add.enqueue(1, 2)
        assert onlooker.execute(COUNT).fetchone() == {"count": 0}

    assert onlooker.execute(COUNT).fetchone() == {"count": 1}


def test_a_savepoint_that_is_rolled_back_takes_its_tasks_along(onlooker: Any) -> None:
    with transaction.atomic():
        tasks.add.enqueue(1, 1)
        with transaction.atomic():
            tasks.add.enqueue(2, 2)
            transaction.set_rollback(True)

    assert onlooker.execute("select payload -> 'args' -> 0 as a from pushq.jobs").fetchall() == [{"a": 1}]


def test_a_task_is_enqueued_with_what_using_says(onlooker: Any) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    tasks.add.using(priority=-7, run_after=later, queue_name="slow").enqueue(1, 2)

    columns = "select priority, run_at, queue from pushq.jobs"
    assert onlooker.execute(columns).fetchone() == {"priority": 7, "run_at": later, "queue": "slow"}


def test_the_task_that_was_enqueued_is_signalled() -> None:
    told: list[Any] = []

    def hear(sender: object, task_result: Any, **_: object) -> None:
        told.append((sender, task_result))

    task_enqueued.connect(hear)
    try:
        result = tasks.add.enqueue(1, 2)
    finally:
        task_enqueued.disconnect(hear)

    assert told == [(PushqBackend, result)]


# Refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"priority": 101}, "priority must be a whole number between -100 and 100"),
        ({"priority": 1.5}, "priority must be a whole number"),
        ({"run_after": datetime(2100, 1, 1)}, "run_after must be an aware datetime"),  # noqa: DTZ001
        ({"queue_name": "nowhere"}, "Queue 'nowhere' is not valid for backend"),
    ],
)
def test_what_using_may_not_say_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Exception, match=sentence) as raised:
        tasks.add.using(**changes)
    assert type(raised.value).__name__ in ("InvalidTask", "InvalidTaskError")


def test_a_function_that_is_not_of_a_module_is_refused() -> None:
    def local() -> None: ...

    with pytest.raises(Exception, match="must be defined at a module level"):
        type(tasks.add)(func=local)


@pytest.mark.parametrize("value", [object(), datetime.now(UTC), {1, 2}], ids=["object", "datetime", "set"])
def test_arguments_that_are_no_json_are_refused(value: object, onlooker: Any) -> None:
    for args, kwargs in (([value], {}), ([], {"b": {"inside": [value]}})):
        with pytest.raises(TypeError, match="Unsupported type"):
            tasks.add.enqueue(*args, **kwargs)
    assert onlooker.execute(COUNT).fetchone() == {"count": 0}


def test_arguments_become_what_json_makes_of_them() -> None:
    result = tasks.add.enqueue((1, 2), b={"x": b"bytes"})

    assert (result.args, result.kwargs) == ([[1, 2]], {"b": {"x": "bytes"}})
    result.refresh()
    assert (result.args, result.kwargs) == ([[1, 2]], {"b": {"x": "bytes"}})


@pytest.mark.parametrize("result_id", ["", "1", "no id", NO_JOB])
def test_a_result_that_there_is_not_is_said_not_to_exist(result_id: str) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result(result_id)
    with pytest.raises(TaskResultDoesNotExist):
        async_to_sync(task_backends["default"].aget_result)(result_id)


def test_a_job_that_is_no_task_of_django_s_is_no_result(onlooker: Any) -> None:
    for task in ("mail.welcome", "os.path.join", "tests.contrib.nowhere.add", "tests.contrib.shop.tasks.note"):
        row = onlooker.execute("insert into pushq.jobs (task) values (%s) returning id", [task]).fetchone()
        with pytest.raises(TaskResultDoesNotExist, match=f"no task '{task}' is imported here"):
            tasks.add.get_result(str(row["id"]))


def test_another_task_s_result_is_a_mismatch() -> None:
    result = tasks.add.enqueue(1, 2)

    with pytest.raises(Exception, match="Task does not match"):
        tasks.fail.get_result(result.id)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="pushq has no option 'retries'; there are database, max_attempts"):
        PushqBackend("default", {"OPTIONS": {"retries": 3}})
    connections.settings["lite"] = connections.settings["default"] | {"ENGINE": "django.db.backends.sqlite3"}
    backend = PushqBackend("other", {"OPTIONS": {"database": "lite"}})
    [error] = backend.check()
    assert "TASKS['other']: the database 'lite' is not by psycopg 3." in str(error)
    assert task_backends["default"].check() == []
    del connections.settings["lite"], connections["lite"]


# Run ------------------------------------------------------------------------------------------------------------------


@SUPERVISED
def test_tasks_run_and_return() -> None:
    results = [
        tasks.add.enqueue(1, b=2),
        tasks.add_on_loop.enqueue(1, b=2),
        tasks.return_pairs.enqueue(),
        tasks.tell.enqueue("hello"),
        tasks.tell_on_loop.enqueue(),
        tasks.again.enqueue(),
        tasks.add.using(queue_name="slow").enqueue(2, 2),
        tasks.elsewhere.using(backend="default").enqueue(),
    ]
    add, on_loop, pairs, tell, tell_on_loop, again, slow, elsewhere = finished(*results)

    assert [one.status for one in results] == ["SUCCESSFUL"] * len(results)
    assert (add.return_value, on_loop.return_value, slow.return_value, elsewhere.return_value) == (3, 3, 4, "here")
    assert (add.errors, add.attempts, len(add.worker_ids)) == ([], 1, 1)
    assert add.enqueued_at <= add.started_at == add.last_attempted_at <= add.finished_at
    assert pairs.return_value == {"pairs": [[1, "x"]], "none": None}
    assert tell.return_value == ["hello", 1, tell.id, "RUNNING", None, True]
    assert tell_on_loop.return_value == [1, tell_on_loop.id, "default"]
    assert (again.return_value, again.attempts) == (2, 2)


@SUPERVISED
def test_tasks_that_fail_tell_why(onlooker: Any) -> None:
    cancelled = tasks.add.using(run_after=datetime.now(UTC) + timedelta(days=1)).enqueue(1, 2)
    results = [
        tasks.fail.enqueue(),
        tasks.fail_on_loop.enqueue(),
        tasks.return_what_is_no_json.enqueue(),
        tasks.exit_process.enqueue(),
        tasks.add.enqueue(1),
        cancelled,
    ]
    onlooker.execute("select pushq.cancel(%s)", [cancelled.id])
    finished(*results)

    for result in results:
        assert result.status == "FAILED"
        with pytest.raises(ValueError, match="Task failed"):
            _ = result.return_value
    kinds = [result.errors[0].exception_class.__name__ for result in results]
    assert kinds == ["ValueError", "OutOfStock", "TypeError", "SystemExit", "TypeError", "Cancel"]
    assert "no such user" in results[0].errors[0].traceback
    assert "in fail_on_loop" in results[1].errors[0].traceback
    assert "Unsupported type" in results[2].errors[0].traceback


def test_an_error_s_class_can_be_had_whatever_the_row_says(onlooker: Any) -> None:
    kinds = {
        "ValueError: no": ValueError,
        "tests.contrib.shop.tasks.OutOfStock: of apples": tasks.OutOfStock,
        "PayloadError: b: missing": PayloadError,
        "ProcessDied: the process that ran the job died (crash 3 of 3)": Exception,
        "What the handler raised cannot be inspected: tests.Odd": Exception,
    }
    for error, kind in kinds.items():
        result = tasks.add.enqueue(1, 2)
        onlooker.execute("update pushq.jobs set error = %s", [error])
        result.refresh()
        assert [one.exception_class for one in result.errors] == [kind]
        assert result.errors[0].traceback == error


@SUPERVISED
def test_tasks_use_the_database_of_django(onlooker: Any) -> None:
    results = [task.enqueue(f"user {number}") for number in range(5) for task in (tasks.sign_up, tasks.sign_up_on_loop)]
    finished(*results)

    assert sorted(result.return_value for result in results) == list(range(1, 11))
    names = [row["name"] for row in onlooker.execute("select name from users order by name").fetchall()]
    assert names == sorted(f"user {number}" for number in range(5) for _ in "ab")


@SUPERVISED
def test_a_backend_that_tries_again_fails_at_its_last_attempt(onlooker: Any) -> None:
    once, twice = tasks.fail_once.enqueue(), tasks.fail_twice.enqueue()
    slow = tasks.sleep.enqueue()

    def waits(result: Any) -> bool:
        result.refresh()
        return (result.status, result.attempts, len(result.errors)) == ("READY", 1, 1)

    wait_until(lambda: waits(once) and waits(twice) and waits(slow), within=20)
    onlooker.execute("update pushq.jobs set run_at = now() where status = 'queued'")
    finished(once, twice, slow)

    assert (once.status, once.return_value, once.attempts) == ("SUCCESSFUL", 2, 2)
    assert (twice.status, twice.attempts, twice.errors[0].exception_class) == ("FAILED", 2, ValueError)
    assert (slow.status, slow.errors[0].exception_class) == ("FAILED", TimeoutError)


@SUPERVISED
def test_what_begins_and_ends_is_signalled_where_it_runs(onlooker: Any) -> None:
    finished(tasks.add.enqueue(1, 2, noted=True))
    finished(tasks.add_on_loop.enqueue(1, 2, noted=True))
    finished(tasks.fail.enqueue(noted=True))
    finished(tasks.exit_process.enqueue(noted=True))
    once = tasks.fail_once.enqueue(noted=True)
    wait_until(lambda: once.refresh() or (once.attempts == 1 and once.status == "READY"), within=20)
    onlooker.execute("update pushq.jobs set run_at = now() where status = 'queued'")
    finished(once)

    told = [row["name"] for row in onlooker.execute("select name from users order by id").fetchall()]
    done = ["started RUNNING 1 []", "finished SUCCESSFUL 1 []"]
    failed = ["started RUNNING 1 []", "finished FAILED 1 ['builtins.ValueError']"]
    exited = ["started RUNNING 1 []", "finished FAILED 1 ['builtins.SystemExit']"]
    assert told == [
        *done,
        *done,
        *failed,
        *exited,
        "started RUNNING 1 []",
        "started RUNNING 2 []",
        "finished SUCCESSFUL 2 []",
    ]


@SUPERVISED
@pytest.mark.parametrize("task", [tasks.sleep, tasks.oversleep], ids=["async def", "def"])
def test_the_end_of_a_task_whose_time_is_over_is_signalled_after_its_last_attempt(task: Any, onlooker: Any) -> None:
    late = task.enqueue(noted=True)
    wait_until(lambda: late.refresh() or (late.attempts == 1 and late.status == "READY"), within=20)
    onlooker.execute("update pushq.jobs set run_at = now() where status = 'queued'")
    finished(late)

    told = [row["name"] for row in onlooker.execute("select name from users order by id").fetchall()]
    assert told == ["started RUNNING 1 []", "started RUNNING 2 []", "finished FAILED 2 ['builtins.TimeoutError']"]
    assert late.errors[0].exception_class is TimeoutError


@SUPERVISED
def test_a_plain_insert_runs_a_task(onlooker: Any) -> None:
    text = "insert into pushq.jobs (task, payload) values (%s, %s) returning id"
    row = onlooker.execute(text, ["tests.contrib.shop.tasks.add", '{"kwargs": {"a": 3, "b": 4}}']).fetchone()
    result = tasks.add.get_result(str(row["id"]))

    assert finished(result)[0].return_value == 7


# Not run --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("", "DJANGO_SETTINGS_MODULE is not set; name the project's settings: mysite.settings."),
        ("tests.contrib.no_backend", "settings.TASKS has no backend 'pushq.contrib.django.PushqBackend'."),
        ("tests.contrib.no_tasks", "No app has a module `tasks` with a function under @task."),
    ],
)
def test_a_project_without_tasks_is_refused(
    settings: str, sentence: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", settings)
    ended = pushq("supervise", REGISTRY, "--http-port", "0", url=database_url)

    assert ended.returncode == 2
    assert sentence in ended.stderr
