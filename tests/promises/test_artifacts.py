"""A handler leaves files with its job: complete or not at all, by the attempt that holds the job, gone with the job."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pushq import Artifact, Queue
from pushq.artifacts import refuse_wrong
from pushq.database.session import Session
from pushq.errors import ArtifactRefused, ArtifactUnknown
from pushq.sweeper import Sweeper, Swept
from pushq.sweeper.store import Store
from tests.support.days import make_day
from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import supervising
from tests.support.waiting import eventually

MIB = 1024 * 1024
QUEUE = Queue()


async def left(url: str, job: UUID) -> dict[str, bytes]:
    """The artifacts of a job, read as a producer reads."""
    return {
        one.name: b"".join([piece async for piece in QUEUE.artifact(job, one.name, url=url)])
        for one in await QUEUE.artifacts(job, url=url)
    }


async def taken(connection: Connection, **columns: Any) -> tuple[UUID, UUID]:
    """A job that a guest holds, and the token."""
    (job,) = await insert(connection, "by.hand", **columns)
    return job, await connection.fetchval("select pushq.take($1, 'anna')", job)


async def put(connection: Connection, held: tuple[UUID, UUID], name: str, data: bytes, **more: Any) -> UUID | None:
    named = "".join(f", {name} => ${place}" for place, name in enumerate(more, 5))
    its_id: UUID | None = await connection.fetchval(
        f"select pushq.put_artifact($1, $2, $3, $4{named})", *held, name, data, *more.values()
    )
    return its_id


async def begin(connection: Connection, held: tuple[UUID, UUID], name: str, pieces: int = 0) -> UUID:
    draft: UUID = await connection.fetchval("select pushq.begin_artifact($1, $2, $3)", *held, name)
    for place in range(pieces):
        await connection.execute("select pushq.append_artifact($1, $2, $3, 'x')", draft, held[1], place)
    return draft


async def sweep(url: str, retention: timedelta = timedelta(days=7)) -> Swept:
    session = Session(url, "test")
    try:
        return await Sweeper(Store(session), retention=retention.total_seconds()).sweep()
    finally:
        await session.close()


async def age(connection: Connection, *, days: int) -> None:
    """As if every artifact had been begun so many days ago."""
    await connection.execute(
        f"""
        update pushq.artifacts set day = day - {days};
        update pushq.artifact_drafts set day = day - {days};
        with gone as (delete from pushq.artifact_pieces returning *)
        insert into pushq.artifact_pieces select artifact_id, place, data, day - {days} from gone
        """
    )


async def rows(connection: Connection) -> tuple[int, int, int]:
    """How many artifacts, drafts and pieces there are."""
    row = await connection.fetchrow(
        "select (select count(*) from pushq.artifacts), (select count(*) from pushq.artifact_drafts), "
        "(select count(*) from pushq.artifact_pieces)"
    )
    assert row
    return row[0], row[1], row[2]


# Writing and reading ------------------------------------------------------------------------------------------------

SIZES = (0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 7)


@pytest.mark.parametrize("task", ["artifacts", "artifacts.thread", "artifacts.loop", "artifacts.batch"])
async def test_what_a_handler_writes_is_read_again_whatever_the_size(
    connection: Connection, database_url: str, task: str
) -> None:
    files = [{"name": f"{size}.txt", "size": size} for size in SIZES]
    with supervising(database_url):
        (job,) = await insert(connection, task, payload={"files": files})
        await finished(connection, job)
    assert await left(database_url, job) == {f"{size}.txt": b"1" * size for size in SIZES}
    found = {one.name: one for one in await QUEUE.artifacts(job, url=database_url)}
    assert {one.content_type for one in found.values()} == {"text/plain"}
    for size in SIZES:
        one = found[f"{size}.txt"]
        assert isinstance(one, Artifact)
        assert (one.size, one.attempt, one.job_id) == (size, 1, job)
        assert one.sha256 == hashlib.sha256(b"1" * size).hexdigest()


async def test_libraries_write_to_an_artifact_as_to_a_file(connection: Connection, database_url: str) -> None:
    with supervising(database_url):
        (job,) = await insert(connection, "artifacts.zip", payload={"size": 3 * MIB})
        await finished(connection, job)
    read = await left(database_url, job)
    with zipfile.ZipFile(io.BytesIO(read["all.zip"])) as archive:
        assert archive.read("a.txt") == b"a" * 3 * MIB
    assert read["rows.csv"] == b"a,b\n1,2\n"


async def test_many_are_written_at_once(connection: Connection, database_url: str) -> None:
    files = [{"name": f"{letter}", "letter": letter, "size": 2 * MIB + 1} for letter in "abcdefgh"]
    with supervising(database_url):
        jobs = await insert(connection, "artifacts.at.once", 3, payload={"files": files})
        await finished(connection, *jobs)
    for job in jobs:
        assert await left(database_url, job) == {letter: letter.encode() * (2 * MIB + 1) for letter in "abcdefgh"}


async def test_readers_see_nothing_before_the_end(connection: Connection, database_url: str) -> None:
    files = [{"name": "a", "size": 3 * MIB, "sleep": 0.5}]
    with supervising(database_url):
        (job,) = await insert(connection, "artifacts", payload={"files": files})

        async def has_written() -> bool:
            return bool(await connection.fetchval("select size = $1 from pushq.artifact_drafts", 3 * MIB))

        await eventually(has_written)
        assert await left(database_url, job) == {}
        with pytest.raises(ArtifactUnknown, match=f"Job {job} has no artifact 'a'"):
            await anext(QUEUE.artifact(job, "a", url=database_url))
        await finished(connection, job)
    assert await left(database_url, job) == {"a": b"1" * 3 * MIB}


async def test_plain_sql_writes_and_reads(connection: Connection, database_url: str) -> None:
    held = await taken(connection)
    for size in SIZES:
        assert await put(connection, held, f"{size}.bin", b"y" * size, content_type="image/png")
    assert await left(database_url, held[0]) == {f"{size}.bin": b"y" * size for size in SIZES}
    for size in SIZES:
        assert await connection.fetchval("select pushq.read_artifact($1, $2)", held[0], f"{size}.bin") == b"y" * size
        stored = await connection.fetchval(
            "select sha256 from pushq.artifacts where job_id = $1 and name = $2", held[0], f"{size}.bin"
        )
        assert stored == hashlib.sha256(b"y" * size).digest()
    assert await connection.fetchval("select pushq.read_artifact($1, 'none')", held[0]) is None
    with pytest.raises(asyncpg.InvalidParameterValueError, match="has no bytes, but null"):
        await connection.execute("select pushq.put_artifact($1, $2, 'n', null)", *held)


# Attempts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["fail", "die"])
async def test_a_later_attempt_replaces_what_an_earlier_has_left_once_it_is_complete(
    connection: Connection, database_url: str, end: str
) -> None:
    files = [
        {"name": "report", "size": 2 * MIB},
        {"name": "second", "size": 10, "sleep": 0.3, end: [1]},
    ]
    with supervising(database_url):
        (job,) = await insert(connection, "artifacts", payload={"files": files})
        await finished(connection, job)
    assert await left(database_url, job) == {"report": b"2" * 2 * MIB, "second": b"2" * 10}
    await sweep(database_url)
    assert await rows(connection) == (2, 0, 3)  # the first attempt's pieces are gone


async def test_what_a_handler_gives_up_leaves_nothing(connection: Connection, database_url: str) -> None:
    files = [{"name": "a", "size": 2 * MIB, "fail": [1, 2, 3]}]
    with supervising(database_url):
        (job,) = await insert(connection, "artifacts", payload={"files": files})
        (row,) = await finished(connection, job)
        assert row["status"] == "failed"

        async def is_empty() -> bool:
            return await rows(connection) == (0, 0, 0)

        await eventually(is_empty)


async def test_an_artifact_that_a_handler_leaves_open_is_given_up_with_the_attempt(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url):
        (job,) = await insert(connection, "artifacts.left.open", payload={"name": "a"})
        await finished(connection, job)

        async def is_empty() -> bool:
            return await rows(connection) == (0, 0, 0)

        await eventually(is_empty)


async def test_one_attempt_writes_a_name_once(connection: Connection, database_url: str) -> None:
    twice = [{"name": "a", "size": 1}, {"name": "a", "size": 2, "refused": True}]
    at_once = [{"name": "a", "size": 1, "sleep": 0.2}, {"name": "a", "size": 2, "refused": True}]
    with supervising(database_url):
        (one,) = await insert(connection, "artifacts", payload={"files": twice})
        (other,) = await insert(connection, "artifacts.at.once", payload={"files": at_once})
        first, second = await finished(connection, one, other)
    assert json.loads(first["result"]) == [
        f"ArtifactRefused: Job {one}: this attempt has written an artifact 'a' already; give another name."
    ]
    assert json.loads(second["result"]) == [
        "ArtifactRefused: This attempt is writing an artifact 'a' already; give another name."
    ]
    assert await left(database_url, one) == await left(database_url, other) == {"a": b"1"}


async def test_an_attempt_that_has_lost_its_job_writes_nothing(connection: Connection, database_url: str) -> None:
    job, token = await taken(connection)
    await put(connection, (job, token), "a", b"first")
    draft = await begin(connection, (job, token), "b", pieces=1)
    full = await begin(connection, (job, token), "c", pieces=1)
    await connection.execute("select pushq.finish($1, $2, 'released')", job, token)
    assert await put(connection, (job, token), "a", b"late") is None
    assert await connection.fetchval("select pushq.append_artifact($1, $2, 1, 'x')", draft, token) is None
    assert not await connection.fetchval("select pushq.complete_artifact($1, $2, 1, sha256('x'))", full, token)
    again = await connection.fetchval("select pushq.take($1, 'berta')", job)
    assert await connection.fetchval("select pushq.append_artifact($1, $2, 1, 'x')", draft, token) is None
    assert await connection.fetchval("select pushq.append_artifact($1, $2, 1, 'x')", draft, again) is None
    assert not await connection.fetchval("select pushq.complete_artifact($1, $2, 1, sha256('x'))", full, again)
    assert await left(database_url, job) == {"a": b"first"}
    await put(connection, (job, again), "a", b"second")
    assert await left(database_url, job) == {"a": b"second"}
    await sweep(database_url)
    assert await rows(connection) == (1, 0, 1)


async def test_of_two_attempts_that_end_at_once_the_one_that_holds_the_job_wins(
    connection: Connection, database_url: str
) -> None:
    """The job's row is locked while an artifact becomes complete: a requeue waits, or comes first."""
    other = await asyncpg.connect(database_url)
    job, token = await taken(connection)
    draft = await begin(connection, (job, token), "a", pieces=1)
    complete = "select pushq.complete_artifact($1, $2, 1, sha256('x'))"

    async with connection.transaction():
        assert await connection.fetchval(complete, draft, token)
        releasing = asyncio.create_task(other.fetchval("select pushq.finish($1, $2, 'released')", job, token))
        await asyncio.wait([releasing], timeout=0.2)
        assert not releasing.done()
    assert await releasing

    again = await connection.fetchval("select pushq.take($1, 'berta')", job)
    draft = await begin(connection, (job, again), "a", pieces=1)
    async with connection.transaction():
        assert await connection.fetchval("select pushq.finish($1, $2, 'released')", job, again)
        completing = asyncio.create_task(other.fetchval(complete, draft, again))
        await asyncio.wait([completing], timeout=0.2)
        assert not completing.done()
    assert not await completing
    assert await connection.fetchval("select token from pushq.artifacts") == token
    await other.close()


async def test_a_call_repeated_after_a_lost_reply_does_nothing_twice(connection: Connection, database_url: str) -> None:
    held = await taken(connection)
    first, draft = await begin(connection, held, "a", pieces=1), await begin(connection, held, "a")
    assert first != draft
    append = "select pushq.append_artifact($1, $2, $3, $4)"
    for data in (b"one ", b"two"):
        place = 0 if data == b"one " else 1
        sizes = [await connection.fetchval(append, draft, held[1], place, data) for _ in range(2)]
        assert sizes == [[4, 4], [7, 7]][place]
    for wrong_place in (0, 3, -1, None):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="'a' has 2 pieces; give place 2, not"):
            await connection.execute(append, draft, held[1], wrong_place, b"x")
    for other in (b"tw0", b"two!"):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="'a' has other bytes at place 1 already"):
            await connection.execute(append, draft, held[1], 1, other)
    complete = "select pushq.complete_artifact($1, $2, $3, sha256('one two'))"
    for wrong in (6, 8, None):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="'a' has 7 bytes here"):
            await connection.execute(complete, draft, held[1], wrong)
    assert [await connection.fetchval(complete, draft, held[1], 7) for _ in range(2)] == [True, True]
    for statement in ("select pushq.complete_artifact($1, $2, 7, sha256('two one'))", complete.replace("$3", "8")):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="'a' was complete before, with 7 bytes"):
            await connection.execute(statement, draft, held[1])
    assert await left(database_url, held[0]) == {"a": b"one two"}
    assert not await connection.fetchval("select pushq.discard_artifact($1, $2)", draft, held[1])


async def test_an_artifact_put_again_after_a_lost_reply_is_the_same(connection: Connection, database_url: str) -> None:
    held = await taken(connection)
    for name, data in (("a", b"abc"), ("empty", b""), ("large", b"x" * (5 * MIB + 1))):
        first = await put(connection, held, name, data, content_type="text/plain")
        assert first
        assert await put(connection, held, name, data, content_type="text/plain") == first
        for other, content_type in ((data + b"!", "text/plain"), (data, "text/csv")):
            with pytest.raises(asyncpg.UniqueViolationError, match=f"written an artifact '{name}' already"):
                await put(connection, held, name, other, content_type=content_type)
    assert await rows(connection) == (3, 0, 7)
    await connection.execute("select pushq.finish($1, $2, 'succeeded')", *held)
    assert await put(connection, held, "a", b"abc", content_type="text/plain")
    assert await put(connection, held, "b", b"abc") is None
    assert (await left(database_url, held[0]))["a"] == b"abc"


async def test_a_wrong_sha256_of_up_to_4_mib_is_refused(connection: Connection, database_url: str) -> None:
    held = await taken(connection)
    complete = "select pushq.complete_artifact($1, $2, $3, $4)"
    for size in (0, 1, MIB, 4 * MIB, 4 * MIB + 1):
        draft, data = await begin(connection, held, str(size)), b"y" * size
        for place in range(-(-size // MIB)):
            piece = data[place * MIB : (place + 1) * MIB]
            await connection.execute("select pushq.append_artifact($1, $2, $3, $4)", draft, held[1], place, piece)
        if size <= 4 * MIB:
            right = hashlib.sha256(data)
            with pytest.raises(asyncpg.InvalidParameterValueError, match=f"have the SHA-256 {right.hexdigest()}"):
                await connection.execute(complete, draft, held[1], size, b"w" * 32)
            assert await connection.fetchval(complete, draft, held[1], size, right.digest())
        else:
            assert await connection.fetchval(complete, draft, held[1], size, b"w" * 32)
    with pytest.raises(ArtifactUnknown, match="has lost its bytes"):
        await left(database_url, held[0])


async def test_a_reader_of_a_replaced_artifact_is_told(connection: Connection, database_url: str) -> None:
    job, token = await taken(connection)
    await put(connection, (job, token), "a", b"1" * 3 * MIB)
    reading = QUEUE.artifact(job, "a", url=database_url)
    assert await anext(reading) == b"1" * MIB
    await connection.execute("select pushq.finish($1, $2, 'released')", job, token)
    again = await connection.fetchval("select pushq.take($1, 'berta')", job)
    await put(connection, (job, again), "a", b"2")
    with pytest.raises(ArtifactUnknown, match=f"'a' of job {job} was replaced or deleted while it was read"):
        await anext(reading)
    assert await left(database_url, job) == {"a": b"2"}


async def test_a_reader_names_its_job_by_a_uuid_and_the_artifact_by_a_str(database_url: str) -> None:
    for wrong in ("nope", None, 1):
        with pytest.raises(TypeError, match=f"job_id={wrong!r} is of type {type(wrong).__name__}: give a UUID"):
            await QUEUE.artifacts(wrong, url=database_url)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"job_id={wrong!r} is of type"):
            await anext(QUEUE.artifact(wrong, "a", url=database_url))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name=None is of type NoneType: give a str"):
        await anext(QUEUE.artifact(uuid4(), None, url=database_url))  # type: ignore[arg-type]


async def test_a_reader_is_told_of_lost_bytes(connection: Connection, database_url: str) -> None:
    held = await taken(connection)
    await put(connection, held, "a", b"abc")
    await connection.execute("update pushq.artifact_pieces set data = 'abd'")
    with pytest.raises(ArtifactUnknown, match="has lost its bytes: 3 bytes of SHA-256"):
        await left(database_url, held[0])


# Limits and names ---------------------------------------------------------------------------------------------------

GOOD = (
    "a",
    "ä b.txt",
    "-rf",
    ".hidden",
    "x" * 200,
    "…" * 85,
    "a:b",
    "'; drop table pushq.jobs; --",
    "\u00a0",
    "\u202f",
)
BAD = ("", ".", "..", "a/b", "/etc/passwd", "../x", "a\\b", "a\nb", "\x01", "\x7f", "x" * 201, "…" * 86)
TURNING = ("\x80", "a\x85", "\x9b31m", "\x9f", "\u202a", "\u202egpj.exe", "a\u2066", "\u2069")
TYPES = ("image/png", "text/plain; charset=utf-8", "application/vnd.api+json", "a/b;c")
NO_TYPES = (
    "",
    "png",
    "image/",
    "/png",
    "a b/c",
    "text/plain\r\nX: y",
    "text/plain; \n",
    "a/ä",
    "a/" + "b" * 199,
    "a/b/c",
)


async def test_names_are_no_paths_and_types_are_types_for_python_and_for_sql(
    connection: Connection, database_url: str
) -> None:
    held = await taken(connection)
    for name in GOOD:
        refuse_wrong(name, "a/b")
        assert await put(connection, held, name, b"x")
    for content_type in TYPES:
        refuse_wrong("a", content_type)
        assert await put(connection, held, f"of {content_type.replace('/', ' ')}", b"x", content_type=content_type)
    for name in BAD + TURNING:
        with pytest.raises(ArtifactRefused, match="cannot be used: give 1 to 200 characters"):
            refuse_wrong(name, "a/b")
        with pytest.raises(asyncpg.InvalidParameterValueError, match="cannot be used; give 1 to 200 characters"):
            await put(connection, held, name, b"x")
    for content_type in NO_TYPES:
        with pytest.raises(ArtifactRefused, match="has no content type by"):
            refuse_wrong("a", content_type)
        with pytest.raises(asyncpg.InvalidParameterValueError, match="has no content type by"):
            await put(connection, held, "a of no type", b"x", content_type=content_type)
    for unstorable in ("a\x00", "\ud800"):
        with pytest.raises(ArtifactRefused, match="cannot be used"):
            refuse_wrong(unstorable, "a/b")
    for wrong in (None, 1, b"a"):
        with pytest.raises(TypeError, match="An artifact's name is a str"):
            refuse_wrong(wrong, "a/b")
        with pytest.raises(TypeError, match="An artifact's content type is a str"):
            refuse_wrong("a", wrong)
    assert {one.name for one in await QUEUE.artifacts(held[0], url=database_url)} >= {*GOOD}


async def test_one_byte_over_a_limit_is_refused_and_leaves_nothing(connection: Connection, database_url: str) -> None:
    files = [{"name": str(size), "size": size, "refused": size == 100_001} for size in (100_000, 100_001)]
    more = [{"name": f"n{place}", "size": 0, "refused": place == 3} for place in range(4)]
    with supervising(database_url, ARTIFACT_BYTES="100000", ARTIFACTS_PER_JOB="3"):
        (large,) = await insert(connection, "artifacts", payload={"files": files})
        (many,) = await insert(connection, "artifacts", payload={"files": more})
        (swallowed,) = await insert(connection, "artifacts.swallowed", payload={"size": 2 * MIB})
        ended = await finished(connection, large, many, swallowed)
        remedy = "put several files into one, or raise the limit."
        assert [json.loads(row["result"]) for row in ended] == [
            [f"ArtifactRefused: Job {large}: the artifact '100001' is over 100000 bytes, the limit."],
            [f"ArtifactRefused: Job {many}: the job has 3 artifacts, and may have no more; {remedy}"],
            f"ArtifactRefused, Job {swallowed}: the artifact 'a' is over 100000 bytes, the limit.",
        ]
        assert {*await left(database_url, large)} == {"100000"}
        assert {*await left(database_url, many)} == {"n0", "n1", "n2"}
        assert await left(database_url, swallowed) == {}

        async def is_clean() -> bool:
            return (await rows(connection))[1] == 0

        await eventually(is_clean)


async def test_a_tenant_s_jobs_write_no_more_a_day_than_the_limit(connection: Connection, database_url: str) -> None:
    files = [{"name": "a", "size": 60_000, "refused": True}, {"name": "b", "size": 60_000, "refused": True}]
    with supervising(database_url, ARTIFACT_BYTES_PER_DAY="100000"):
        jobs = [
            (await insert(connection, "artifacts", payload={"files": files}, tenant_id=of))[0] for of in ("acme", None)
        ]
        own, nobody_s = [json.loads(row["result"]) for row in await finished(connection, *jobs)]
        (later,) = await insert(connection, "artifacts", payload={"files": files[1:]}, tenant_id="globex")
        assert json.loads((await finished(connection, later))[0]["result"]) == []
    day = await connection.fetchval("select pushq.current_day()")
    (told,) = own
    assert told == (
        f"ArtifactRefused: Job {jobs[0]}: with the artifact 'b', jobs of the tenant 'acme' would have written over "
        f"100000 bytes on {day}, the limit of a day."
    )
    assert nobody_s == []
    await connection.execute("update pushq.artifact_bytes set day = day - 2 where tenant_id = 'acme'")
    await sweep(database_url)
    assert [row["tenant_id"] for row in await connection.fetch("select tenant_id from pushq.artifact_bytes")] == [
        "globex"
    ]


async def test_a_piece_has_1_byte_to_1_mib(connection: Connection) -> None:
    held = await taken(connection)
    draft = await begin(connection, held, "a")
    for data in (b"", b"x" * (MIB + 1), None):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="a piece of an artifact has 1 to 1,048,576 bytes"):
            await connection.execute("select pushq.append_artifact($1, $2, 0, $3)", draft, held[1], data)
    for sha256 in (b"", b"x" * 31, None):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="a SHA-256 has 32 bytes"):
            await connection.execute("select pushq.complete_artifact($1, $2, 0, $3)", draft, held[1], sha256)


# The end ------------------------------------------------------------------------------------------------------------


async def test_artifacts_stay_with_a_finished_job_and_go_when_it_is_deleted(
    connection: Connection, database_url: str
) -> None:
    kept, gone = await taken(connection), await taken(connection)
    for held in (kept, gone):
        await put(connection, held, "a", b"x" * 2 * MIB)
        await connection.execute("select pushq.finish($1, $2, 'succeeded')", *held)
    assert (await sweep(database_url)).artifacts == 0
    await connection.execute("delete from pushq.jobs where id = $1", gone[0])
    assert (await sweep(database_url)).artifacts == 1
    assert await left(database_url, gone[0]) == {}
    assert await left(database_url, kept[0]) == {"a": b"x" * 2 * MIB}
    assert await rows(connection) == (1, 0, 2)
    await connection.execute("select pushq.retry($1)", kept[0])
    assert (await sweep(database_url)).artifacts == 0
    assert await left(database_url, kept[0]) == {"a": b"x" * 2 * MIB}


async def test_an_artifact_of_a_job_that_is_deleted_meanwhile_leaves_nothing(
    connection: Connection, database_url: str
) -> None:
    files = [{"name": "a", "size": 2 * MIB, "sleep": 0.5}]
    with supervising(database_url):
        (job,) = await insert(connection, "artifacts", payload={"files": files})

        async def has_written() -> bool:
            return bool(await connection.fetchval("select size = $1 from pushq.artifact_drafts", 2 * MIB))

        await eventually(has_written)
        await connection.execute("delete from pushq.jobs where id = $1", job)
        (other,) = await insert(connection, "artifacts", payload={"files": [files[0] | {"sleep": 0.6}]})
        await finished(connection, other)
    await sweep(database_url)
    assert await left(database_url, job) == {}
    assert await rows(connection) == (1, 0, 2)


async def test_a_killed_writer_leaves_nothing_after_a_sweep(connection: Connection, database_url: str) -> None:
    files = [{"name": "a", "size": 3 * MIB, "die": [1, 2, 3], "sleep": 0.1}]
    with supervising(database_url):
        (job,) = await insert(connection, "artifacts", payload={"files": files})
        (row,) = await finished(connection, job)
    assert (row["status"], row["crashes"]) == ("failed", 3)
    assert (await rows(connection))[1] == 3
    assert (await sweep(database_url)).artifacts == 3
    assert await rows(connection) == (0, 0, 0)


async def test_a_day_is_emptied_when_nothing_points_into_it_and_dropped_after_the_days_of_jobs(
    connection: Connection, database_url: str
) -> None:
    today = await connection.fetchval("select pushq.current_day()")
    day = today - timedelta(days=9)
    for older in (9, 8):
        await make_day(connection, today - timedelta(days=older))  # makes the day of artifacts, too
    old, living = [await taken(connection) for _ in range(2)]
    for held in (old, living):
        await put(connection, held, "a", b"x" * 2 * MIB)
    await age(connection, days=9)
    await connection.execute("delete from pushq.jobs where id = $1", old[0])
    partition = f"pushq.artifact_pieces_{day:%Y_%m_%d}"
    for _ in range(2):
        assert (await sweep(database_url)).troubles == ()
    assert await connection.fetchval("select to_regclass($1) is null", f"pushq.jobs_{day:%Y_%m_%d}")
    assert await left(database_url, old[0]) == {}
    assert await left(database_url, living[0]) == {"a": b"x" * 2 * MIB}
    await connection.execute("delete from pushq.jobs where id = $1", living[0])
    for _ in range(2):
        assert (await sweep(database_url)).troubles == ()
    assert await connection.fetchval("select to_regclass($1) is null", partition)
    assert await rows(connection) == (0, 0, 0)


async def test_an_artifact_written_over_midnight_lies_in_the_day_of_its_beginning(
    connection: Connection, database_url: str
) -> None:
    today = await connection.fetchval("select pushq.current_day()")
    await make_day(connection, today - timedelta(days=1))
    held = await taken(connection)
    draft = await begin(connection, held, "a", pieces=1)
    await age(connection, days=1)
    assert (await sweep(database_url)).troubles == ()
    assert await connection.fetchval("select pushq.append_artifact($1, $2, 1, 'y')", draft, held[1]) == 2
    assert await connection.fetchval("select pushq.complete_artifact($1, $2, 2, sha256('xy'))", draft, held[1])
    assert (await sweep(database_url)).troubles == ()
    assert await left(database_url, held[0]) == {"a": b"xy"}
    days = await connection.fetch("select distinct day from pushq.artifact_pieces")
    assert [row["day"] for row in days] == [today - timedelta(days=1)]


async def test_a_day_that_somebody_begins_to_write_into_is_not_emptied(
    connection: Connection, database_url: str
) -> None:
    """The sweeper has looked, and then waits for the lock of a writer that nobody sees yet."""
    today = await connection.fetchval("select pushq.current_day()")
    await make_day(connection, today - timedelta(days=1))
    held = await taken(connection)
    writer = await asyncpg.connect(database_url)
    await connection.execute(
        "insert into pushq.artifact_pieces values ($1, 0, 'left', $2)", uuid4(), today - timedelta(1)
    )
    async with writer.transaction():
        draft = await begin(writer, held, "a")
        await writer.execute("update pushq.artifact_drafts set day = day - 1")
        await writer.execute("select pushq.append_artifact($1, $2, 0, 'x')", draft, held[1])
        retiring = asyncio.create_task(connection.fetch("select * from pushq.retire_artifact_days()"))
        await asyncio.wait([retiring], timeout=0.2)
        assert not retiring.done()
    assert await retiring == []
    assert await connection.fetchval("select pushq.complete_artifact($1, $2, 1, sha256('x'))", draft, held[1])
    assert await left(database_url, held[0]) == {"a": b"x"}
    await writer.close()
