"""What a job needs is the same whoever says it, and what nobody can need is refused by the name of a rule."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from click.testing import Result

from pushq import NewJob, Queue, Tasks
from pushq.errors import TasksError
from tests.support.commands import invoke
from tests.support.jobs import Connection, insert, row_of
from tests.support.notifications import hearing, open_gate
from tests.support.supervisors import supervising

Say: TypeAlias = Callable[[Connection, Any, str | None, str | None], Awaitable[object]]
"""Inserts a job with needs, limit_key and affinity, for which None is null."""


# One row, whoever says it ---------------------------------------------------------------------------------------------


async def by_insert(connection: Connection, needs: Any, limit_key: str | None, affinity: str | None) -> None:
    await connection.execute(
        "insert into pushq.jobs (task, needs, limit_key, affinity) values ('it', $1, $2, $3)",
        _text(needs),
        limit_key,
        affinity,
    )


async def by_copy(connection: Connection, needs: Any, limit_key: str | None, affinity: str | None) -> None:
    await connection.copy_records_to_table(
        "jobs",
        schema_name="pushq",
        columns=["task", "needs", "limit_key", "affinity"],
        records=[("it", _text(needs), limit_key, affinity)],
    )


async def by_enqueue(connection: Connection, needs: Any, limit_key: str | None, affinity: str | None) -> None:
    await connection.execute(
        "select pushq.enqueue('it', needs => $1, limit_key => $2, affinity => $3)", _text(needs), limit_key, affinity
    )


async def by_enqueue_many(connection: Connection, needs: Any, limit_key: str | None, affinity: str | None) -> None:
    jobs = [{"task": "it", "needs": needs, "limit_key": limit_key, "affinity": affinity}]
    await connection.execute("select pushq.enqueue_many($1)", json.dumps(jobs))


async def by_replacement(connection: Connection, needs: Any, limit_key: str | None, affinity: str | None) -> None:
    """The job is there, and gets its needs from a second call."""
    async with connection.transaction():
        await connection.execute("select pushq.enqueue('it', unique_key => 'k')")
        await connection.execute(
            "select pushq.enqueue("
            "'it', unique_key => 'k', standing => 'replace', needs => $1, limit_key => $2, affinity => $3)",
            _text(needs),
            limit_key,
            affinity,
        )


async def by_queue(connection: Connection, needs: Any, limit_key: str | None, affinity: str | None) -> None:
    await Queue().insert(NewJob("it", needs=needs, limit_key=limit_key, affinity=affinity), connection=connection)


async def by_queue_s_copy(connection: Connection, needs: Any, limit_key: str | None, affinity: str | None) -> None:
    await Queue().copy([NewJob("it", needs=needs, limit_key=limit_key, affinity=affinity)], connection=connection)


async def by_queue_s_enqueue(connection: Connection, needs: Any, limit_key: str | None, affinity: str | None) -> None:
    await Queue().enqueue(NewJob("it", needs=needs, limit_key=limit_key, affinity=affinity), connection=connection)


def _text(needs: Any) -> str | None:
    return None if needs is None else json.dumps(needs)


SQL: tuple[Say, ...] = (by_insert, by_copy, by_enqueue, by_enqueue_many, by_replacement)
PYTHON: tuple[Say, ...] = (by_queue, by_queue_s_copy, by_queue_s_enqueue)
GOOD: dict[str, tuple[Any, str | None, str | None, dict[str, int] | None]] = {
    "an object": ({"gpu": 2, "disk": 1}, None, None, {"gpu": 2, "disk": 1}),
    "an array": (["disk", "a b: ä\"'\\"], None, None, {"disk": 1, "a b: ä\"'\\": 1}),
    "16 of the longest names": ([f"{number:200}" for number in range(16)], None, None, None),
    "a million": ({"disk": 1_000_000}, None, None, {"disk": 1_000_000}),
    "no name": ({}, None, None, {}),
    "an empty array": ([], None, None, {}),
    "nothing": (None, None, None, {}),
    "a key and an affinity": (None, "k" * 195, "a" * 190, {"key:" + "k" * 195: 1, "affinity:" + "a" * 190: 1}),
    "all": (["gpu"], "a", "a", {"gpu": 1, "key:a": 1, "affinity:a": 1}),
}


@pytest.fixture
async def resources(connection: Connection) -> Connection:
    await connection.execute("insert into pushq.resources (name, capacity) values ('gpu', 2), ('disk', null)")
    return connection


@pytest.mark.parametrize("say", [*SQL, *PYTHON])
@pytest.mark.parametrize("what", GOOD)
async def test_what_a_job_needs_is_in_its_row_whoever_says_so(resources: Connection, what: str, say: Say) -> None:
    needs, limit_key, affinity, expected = GOOD[what]
    expected = dict.fromkeys(needs, 1) if expected is None else expected
    await say(resources, needs, limit_key, affinity)

    [row] = await resources.fetch("select * from pushq.jobs")
    assert json.loads(row["needs"] or "{}") == expected
    assert (row["limit_key"], row["affinity"], row["lane"] is None) == (limit_key, affinity, not expected)


async def test_a_job_in_python_has_its_needs_as_a_dict_however_they_were_said() -> None:
    said: dict[str, int] = {"gpu": 1}
    job = NewJob("it", needs=said)
    said["gpu"] = 2

    assert job == NewJob("it", needs=["gpu"]) == NewJob("it", needs=("gpu",)) == NewJob("it", needs={"gpu": 1})
    assert job.needs == {"gpu": 1}
    assert NewJob("it", needs=[]) == NewJob("it", needs={}) == NewJob("it")
    assert dataclasses.replace(job, priority=1).needs == {"gpu": 1}


async def test_a_job_that_is_replaced_needs_what_the_last_call_says_and_no_more(resources: Connection) -> None:
    async def enqueue(**what: Any) -> Any:
        done = await Queue().enqueue(NewJob("it", unique_key="k", **what), connection=resources, standing="replace")
        return await row_of(resources, done.id)

    first = await enqueue(needs=["gpu"], limit_key="a", affinity="b")
    second = await enqueue(needs={"gpu": 2})
    third = await enqueue()

    assert first["id"] == second["id"] == third["id"]
    assert json.loads(second["needs"]) == {"gpu": 2}
    assert (third["needs"], third["limit_key"], third["affinity"], third["lane"], third["apart"]) == (None,) * 5


async def test_a_job_that_needs_something_else_from_now_on_rings_and_one_that_needs_the_same_does_not(
    database_url: str, connection: Connection
) -> None:
    calls: dict[str, Any] = {
        "the first": {"needs": ["gpu"]},
        "the same": {"needs": {"gpu": 1}},
        "another": {"needs": ["disk"]},
        "a key": {"needs": ["disk"], "limit_key": "a"},
        "nothing": {},
    }
    await open_gate(connection)
    async with hearing(database_url) as ear:
        heard = {}
        for name, what in calls.items():
            job = NewJob("echo", unique_key="k", **what)
            await Queue().enqueue(job, connection=connection, standing="replace")
            heard[name] = await ear.take()

    one, all_pools = ["default"], ["", "default"]  # all, where the job needs something no more
    assert heard == {"the first": one, "the same": [], "another": all_pools, "a key": one, "nothing": all_pools}


async def test_runs_that_are_inserted_together_need_what_each_says(database_url: str, connection: Connection) -> None:
    said: list[Any] = [None, ["gpu"], None, {"disk": 1}]
    with supervising(database_url):
        ends = await asyncio.gather(
            *(Queue().run(NewJob("echo", needs=needs), timeout=20, url=database_url) for needs in said)
        )
    rows = [await row_of(connection, end.id) for end in ends]

    assert [row["needs"] and json.loads(row["needs"]) for row in rows] == [None, {"gpu": 1}, None, {"disk": 1}]


# What nobody can need -------------------------------------------------------------------------------------------------

KIND = "jobs_needs_are_an_object_of_units_or_an_array_of_names"
TWICE = "jobs_needs_in_an_array_name_each_once"
NAMES = "jobs_needs_are_at_most_16_names"
LENGTH = "jobs_needs_have_names_of_1_to_200_characters"
PREFIX = "jobs_needs_have_names_without_a_prefix_of_pushq"
UNITS = "jobs_needs_are_1_to_a_million_units_each"
CAPACITY = "jobs_needs_are_within_capacity"
BAD: dict[str, tuple[Any, str]] = {
    "a number": (7, KIND),
    "text": ("gpu", KIND),
    "true": (True, KIND),
    "an array in an array": ([["gpu"]], KIND),
    "an object in an array": ([{"gpu": 1}], KIND),
    "a null in an array": (["gpu", None], KIND),
    "a number in an array": ([1], KIND),
    "a name twice": (["gpu", "disk", "gpu"], TWICE),
    "17 names": ([str(number) for number in range(17)], NAMES),
    "17 names with units": ({str(number): 1 for number in range(17)}, NAMES),
    "201 characters": (["x" * 201], LENGTH),
    "an empty name": ({"": 1}, LENGTH),
    **{f"the prefix {kind}": ([f"{kind}:x"], PREFIX) for kind in ("key", "affinity", "tenant", "task", "queue")},
    "no unit": ({"gpu": 0}, UNITS),
    "-1": ({"gpu": -1}, UNITS),
    "1e9": ({"gpu": 10**9}, UNITS),
    "a number of 400 digits": ({"gpu": 10**400}, UNITS),
    "1.5": ({"gpu": 1.5}, UNITS),
    "a text of units": ({"gpu": "1"}, UNITS),
    "a null of units": ({"gpu": None}, UNITS),
    "an array of units": ({"gpu": [1]}, UNITS),
    "more than there is": ({"gpu": 3}, CAPACITY),
    "more than one of what nobody has listed": ({"unheard": 2}, CAPACITY),
    "more than the burst of a rate": ({"api": 6}, CAPACITY),
}
OF_TYPE = {
    "a number": "A job's needs are names with units, {'gpu': 2}, or names, ['gpu'], not 7.",
    "text": "A job's needs are names with units, {'gpu': 2}, or names, ['gpu'], not 'gpu'.",
    "true": "A job's needs are names with units, {'gpu': 2}, or names, ['gpu'], not True.",
    "an array in an array": "A job's needs have names of type str, 'gpu', not ['gpu'].",
    "an object in an array": "A job's needs have names of type str, 'gpu', not {'gpu': 1}.",
    "a null in an array": "A job's needs have names of type str, 'gpu', not None.",
    "a number in an array": "A job's needs have names of type str, 'gpu', not 1.",
    "a name twice": "A job's needs name 'gpu' twice; for two units, write {'gpu': 2}.",
    "1.5": "A job's needs have whole units, {'gpu': 1}, not 1.5 of 'gpu'.",
    "a text of units": "A job's needs have whole units, {'gpu': 1}, not '1' of 'gpu'.",
    "a null of units": "A job's needs have whole units, {'gpu': 1}, not None of 'gpu'.",
    "an array of units": "A job's needs have whole units, {'gpu': 1}, not [1] of 'gpu'.",
}


@pytest.fixture
async def refusing(resources: Connection) -> AsyncIterator[Connection]:
    """Of all that is refused, nothing is left, and what was there before still is."""
    await resources.execute("insert into pushq.resources (name, capacity, rate, burst) values ('api', null, 20, 5)")
    [job] = await insert(resources, "before")
    yield resources
    assert [row["id"] for row in await resources.fetch("select id from pushq.jobs")] == [job]


@pytest.mark.parametrize("say", SQL)
@pytest.mark.parametrize("what", BAD)
async def test_needs_that_break_a_rule_are_refused_by_its_name(refusing: Connection, what: str, say: Say) -> None:
    needs, rule = BAD[what]
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await say(refusing, needs, None, None)

    assert refused.value.constraint_name == rule


async def test_a_null_of_json_is_no_needs(refusing: Connection) -> None:
    for call in (
        "insert into pushq.jobs (task, needs) values ('it', 'null')",
        "select pushq.enqueue('it', needs => 'null')",
    ):
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await refusing.execute(call)
        assert refused.value.constraint_name == KIND


@pytest.mark.parametrize("say", SQL)
@pytest.mark.parametrize(
    ("limit_key", "affinity", "rule"),
    [
        ("", None, "jobs_limit_key_has_1_to_195_characters"),
        ("x" * 196, None, "jobs_limit_key_has_1_to_195_characters"),
        (None, "", "jobs_affinity_has_1_to_190_characters"),
        (None, "x" * 191, "jobs_affinity_has_1_to_190_characters"),
    ],
)
async def test_a_key_and_an_affinity_that_are_empty_or_too_long_are_refused_by_the_names_of_their_rules(
    refusing: Connection, limit_key: str | None, affinity: str | None, rule: str, say: Say
) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await say(refusing, None, limit_key, affinity)

    assert refused.value.constraint_name == rule


@pytest.mark.parametrize("say", PYTHON)
@pytest.mark.parametrize("what", BAD)
async def test_python_refuses_what_is_of_another_type_and_the_database_the_rest(
    refusing: Connection, what: str, say: Say
) -> None:
    needs, rule = BAD[what]
    if sentence := OF_TYPE.get(what):
        with pytest.raises((TypeError, ValueError)) as misspelt:
            await say(refusing, needs, None, None)
        assert str(misspelt.value) == sentence
    else:
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await say(refusing, needs, None, None)
        assert refused.value.constraint_name == rule


@pytest.mark.parametrize("unstorable", ["a\0b", "a\ud800b"])
def test_python_refuses_a_name_that_postgresql_does_not_take(unstorable: str) -> None:
    with pytest.raises(
        ValueError, match=r"^A job's need has a .*, which PostgreSQL does not take: leave the character"
    ):
        NewJob("it", needs=[unstorable])


async def test_a_need_above_its_capacity_is_refused_in_a_sentence_with_what_to_do(refusing: Connection) -> None:
    sentences = {
        "gpu": "the job needs 9 of 'gpu', whose capacity is 2; need less, or raise the capacity in",
        "api": "the job needs 9 of 'api', of which 5 may be taken at once; need less, or raise the burst in",
    }
    for name, sentence in sentences.items():
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await by_insert(refusing, {name: 9}, None, None)
        assert str(refused.value) == f"{sentence} pushq.resources"


async def test_of_many_jobs_none_is_inserted_if_one_needs_what_nobody_can(refusing: Connection) -> None:
    jobs = [NewJob("it", needs=["gpu"]), NewJob("it", needs={"gpu": 3}), NewJob("it")]

    for call in (Queue().insert_many, Queue().enqueue_many, Queue().copy):
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await call(jobs, connection=refusing)
        assert refused.value.constraint_name == CAPACITY


async def test_what_jobs_need_already_keeps_them_from_nothing_when_its_capacity_falls(resources: Connection) -> None:
    [job] = await insert(resources, "it", needs={"gpu": 2})
    await resources.execute("update pushq.resources set capacity = 1 where name = 'gpu'")

    await resources.execute("update pushq.jobs set queue = 'other' where id = $1", job)
    assert (await row_of(resources, job))["queue"] == "other"
    with pytest.raises(asyncpg.CheckViolationError, match="whose capacity is 1"):
        await resources.execute("update pushq.jobs set needs = '{\"gpu\": 3}' where id = $1", job)


# The command line -----------------------------------------------------------------------------------------------------


def enqueue(url: str, *options: str) -> Result:
    return invoke("enqueue", "it", *options, url=url)


async def test_the_command_line_says_what_a_job_needs_and_shows_it(database_url: str, resources: Connection) -> None:
    options = ["--need", "gpu=2", "--need", "disk", "--need", "a=b=1", "--limit-key", "acme 7", "--affinity", "llama"]
    ended = enqueue(database_url, *options)
    shown = invoke("jobs", "show", ended.stdout.strip(), url=database_url)
    as_json = json.loads(invoke("jobs", "show", ended.stdout.strip(), "--json", url=database_url).stdout)

    needs = {"gpu": 2, "disk": 1, "a=b": 1, "key:acme 7": 1, "affinity:llama": 1}
    assert json.loads((await row_of(resources, UUID(ended.stdout.strip())))["needs"]) == needs
    assert (as_json["needs"], as_json["limit_key"], as_json["affinity"]) == (needs, "acme 7", "llama")
    lines = [line.split(maxsplit=1) if line[0] != " " else ["", line.strip()] for line in shown.stdout.splitlines()]
    place = next(number for number, line in enumerate(lines) if line[0] == "needs")
    assert [line[1] for line in lines[place : place + 5]] == [
        "1 of a=b",
        "2 of gpu",
        "1 of disk",
        "1 of key:acme 7, added",
        "1 of affinity:llama, added",
    ]


async def test_a_job_without_needs_shows_none(database_url: str, connection: Connection) -> None:
    [job] = await insert(connection, "it")
    shown = invoke("jobs", "show", str(job), url=database_url)
    as_json = json.loads(invoke("jobs", "show", str(job), "--json", url=database_url).stdout)

    assert "needs" not in shown.stdout
    assert (as_json["needs"], as_json["limit_key"], as_json["affinity"]) == (None, None, None)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["gpu="], "'gpu=' has no whole number of units; write gpu=1, or the name alone for one unit."),
        (["gpu=x"], "'gpu=x' has no whole number of units; write gpu=1, or the name alone for one unit."),
        (["gpu=1.5"], "'gpu=1.5' has no whole number of units; write gpu=1, or the name alone for one unit."),
        (["gpu=" + "9" * 5000], "has no whole number of units; write gpu=1, or the name alone for one unit."),
        (["gpu", "gpu=2"], "'gpu' is named twice; for two units, write gpu=2."),
        ([""], LENGTH),
        (["=1"], LENGTH),
        (["x" * 201], LENGTH),
        (["key:x"], PREFIX),
        (["gpu=0"], UNITS),
        (["gpu=-1"], UNITS),
        (["gpu=1000000000"], UNITS),
        (
            ["gpu=3"],
            "the job needs 3 of 'gpu', whose capacity is 2; need less, or raise the capacity in pushq.resources",
        ),
        ([str(number) for number in range(17)], NAMES),
    ],
)
@pytest.mark.usefixtures("refusing")
async def test_what_the_command_line_cannot_need_is_refused_in_a_sentence(
    database_url: str, options: list[str], sentence: str
) -> None:
    ended = enqueue(database_url, *[f"--need={option}" for option in options])

    assert sentence in ended.stderr
    assert (ended.exit_code, ended.stdout, "Traceback" in ended.stderr) == (2, "", False)


@pytest.mark.parametrize(("option", "rule"), [("--limit-key", "195"), ("--affinity", "190")])
@pytest.mark.usefixtures("refusing")
async def test_a_key_or_an_affinity_that_is_too_long_is_refused_in_a_sentence(
    database_url: str, option: str, rule: str
) -> None:
    for value in ("", "x" * 196):
        ended = enqueue(database_url, option, value)
        assert f"_has_1_to_{rule}_characters" in ended.stderr
        assert (ended.exit_code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)


# A task's own needs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "sentence"),
    [
        ("gpu", "needs are names with units, {'gpu': 2}, or names, ['gpu'], not 'gpu'."),
        (7, "needs are names with units, {'gpu': 2}, or names, ['gpu'], not 7."),
        (["gpu", "gpu"], "needs name 'gpu' twice; for two units, write {'gpu': 2}."),
        ([None], "needs have names of type str, 'gpu', not None."),
        ([""], "needs have names of 1 to 200 printable characters, not ''."),
        (["a\0"], r"needs have names of 1 to 200 printable characters, not 'a\x00'."),
        (["x" * 201], f"needs have names of 1 to 200 printable characters, not '{'x' * 201}'."),
        ({"gpu": 0}, "needs have 1 to 1,000,000 units of a name, not 0 of 'gpu'."),
        ({"gpu": -1}, "needs have 1 to 1,000,000 units of a name, not -1 of 'gpu'."),
        ({"gpu": 10**9}, "needs have 1 to 1,000,000 units of a name, not 1000000000 of 'gpu'."),
        ({"gpu": 1.5}, "needs have whole units, {'gpu': 1}, not 1.5 of 'gpu'."),
        ({"gpu": True}, "needs have whole units, {'gpu': 1}, not True of 'gpu'."),
        ({"gpu": "2"}, "needs have whole units, {'gpu': 1}, not '2' of 'gpu'."),
        (
            ["key:x"],
            "needs have no names with a prefix of pushq's, key:, affinity:, tenant:, task:, queue:, as 'key:x' has.",
        ),
        ([str(number) for number in range(17)], "needs are at most 16 names, not 17; let one name stand for several."),
    ],
)
def test_needs_of_a_task_that_cannot_be_are_refused_where_the_task_is_registered(needs: Any, sentence: str) -> None:
    for more in ({}, {"batch": 2}):
        with pytest.raises(TasksError) as refused:
            Tasks().register("it", needs=needs, **more)  # type: ignore[call-overload]
        assert str(refused.value) == f"Task 'it': {sentence}"


def _handle() -> None: ...


def test_a_task_knows_what_its_jobs_need() -> None:
    tasks = Tasks()
    for name, needs in {"plain": None, "needs": ["gpu"], "none": []}.items():
        tasks.register(name, needs=needs)(_handle)

    assert tasks.find("needs").needs == {"gpu": 1}
    assert tasks.needs == {"needs": {"gpu": 1}}
