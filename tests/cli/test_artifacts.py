"""Artifacts by hand: listed, and saved whole or not at all, never outside the folder."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.promises.test_artifacts import MIB, put, taken
from tests.support.commands import invoke
from tests.support.jobs import Connection
from tests.support.supervisors import environment, pushq
from tests.support.waiting import eventually

FILES = {"a.txt": b"abc", "large": b"x" * (2 * MIB + 5), "empty": b"", "-rf": b"dash", "ä …": b"odd"}


@pytest.fixture
async def job(connection: Connection) -> UUID:
    held = await taken(connection)
    for name, data in FILES.items():
        await put(connection, held, name, data, content_type="text/plain")
    return held[0]


def saved(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def run(*arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(pushq, "artifacts", *arguments, url=url)


async def hostile(connection: Connection, job: UUID, name: str) -> None:
    """A name that the database refuses: the database may be anybody's."""
    await connection.execute("alter table pushq.artifacts drop constraint artifacts_name_is_no_path")
    await connection.execute("update pushq.artifacts set name = $2 where job_id = $1 and name = 'a.txt'", job, name)


async def test_they_are_listed_with_the_job_and_by_themselves(job: UUID, database_url: str) -> None:
    lines = [
        json.loads(line)
        for line in invoke("artifacts", "list", str(job), "--json", url=database_url).stdout.splitlines()
    ]
    assert {line["name"]: line["size"] for line in lines} == {name: len(data) for name, data in FILES.items()}
    assert {line["sha256"] for line in lines} == {sha256(data).hexdigest() for data in FILES.values()}
    assert "a.txt" in invoke("artifacts", "list", str(job), url=database_url).stdout
    shown = invoke("jobs", "show", str(job), url=database_url).stdout
    assert "artifact        large  text/plain  2,097,157 bytes" in shown
    (row,) = map(json.loads, invoke("jobs", "show", str(job), "--json", url=database_url).stdout.splitlines())
    assert {one["name"] for one in row["artifacts"]} == {*FILES}


async def test_a_hostile_name_turns_no_text_of_the_list(connection: Connection, job: UUID, database_url: str) -> None:
    await hostile(connection, job, "\u202egpj.exe")
    table = invoke("artifacts", "list", str(job), url=database_url).stdout
    assert "gpj.exe" in table
    assert "\u202e" not in table


async def test_a_job_without_artifacts_and_no_job_are_told_apart(connection: Connection, database_url: str) -> None:
    held = await taken(connection)
    ended = invoke("artifacts", "list", str(held[0]), url=database_url)
    assert (ended.exit_code, ended.stderr) == (0, f"Job {held[0]} has no artifacts.\n")
    nobody = uuid4()
    ended = invoke("artifacts", "list", str(nobody), url=database_url)
    assert ended.exit_code == 2
    assert f"There is no job {nobody}" in ended.stderr
    assert (await run("save", str(held[0]), url=database_url)).returncode == 2


async def test_all_are_saved_or_those_that_are_named(job: UUID, database_url: str, tmp_path: Path) -> None:
    ended = await run("save", str(job), "--into", str(tmp_path / "all"), url=database_url)
    assert ended.returncode == 0, ended.stderr
    assert saved(tmp_path / "all") == FILES
    assert len(ended.stdout.splitlines()) == len(FILES)
    ended = await run("save", str(job), "large", "--into", str(tmp_path / "some"), "--", "-rf", url=database_url)
    assert ended.returncode == 0, ended.stderr
    assert saved(tmp_path / "some") == {name: FILES[name] for name in ("large", "-rf")}
    ended = await run("save", str(job), "larg", "--into", str(tmp_path / "none"), url=database_url)
    assert ended.returncode == 2
    assert f"Job {job} has no artifact 'larg'; it has '-rf', 'a.txt'," in ended.stderr
    assert not (tmp_path / "none").exists()


async def test_what_is_there_stays_unless_overwrite_is_given(job: UUID, database_url: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    for kind in ("file", "link", "broken link", "folder"):
        folder = tmp_path / kind
        folder.mkdir()
        match kind:
            case "file":
                (folder / "large").write_text("mine")
            case "link":
                (folder / "large").symlink_to(outside)
            case "broken link":
                (folder / "large").symlink_to(tmp_path / "nowhere")
            case _:
                (folder / "large").mkdir()
        before = os.lstat(folder / "large")
        ended = await run("save", str(job), "--into", str(folder), url=database_url)
        assert ended.returncode == 2
        assert "There is a file 'large' already; --overwrite replaces it" in ended.stderr
        assert [path.name for path in folder.iterdir()] == ["large"]
        assert os.lstat(folder / "large") == before
        ended = await run("save", str(job), "large", "--into", str(folder), "--overwrite", url=database_url)
        if kind == "folder":
            assert ended.returncode == 1
            assert "cannot be saved: Is a directory" in ended.stderr
            assert [path.name for path in folder.iterdir()] == ["large"]
        else:
            assert ended.returncode == 0, ended.stderr
            assert saved(folder) == {"large": FILES["large"]}
            assert not (folder / "large").is_symlink()
    assert outside.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil-of-pushq", "..", "a/../../evil", "a\nb", ""])
async def test_a_hostile_name_is_refused_even_if_the_database_has_it(
    connection: Connection, job: UUID, database_url: str, tmp_path: Path, name: str
) -> None:
    await hostile(connection, job, name)
    folder = tmp_path / "in"
    for more in ((), ("--overwrite",)):
        ended = await run("save", str(job), "--into", str(folder), *more, url=database_url)
        assert ended.returncode == 2
        assert "cannot be used" in ended.stderr
    assert {path.name for path in tmp_path.rglob("*")} <= {"in", *FILES}
    assert not Path("/tmp/evil-of-pushq").exists()


async def test_a_damaged_artifact_leaves_no_file(
    connection: Connection, job: UUID, database_url: str, tmp_path: Path
) -> None:
    await connection.execute("update pushq.artifact_pieces set data = 'y' where octet_length(data) = 5")
    ended = await run("save", str(job), "large", "--into", str(tmp_path), url=database_url)
    assert ended.returncode == 1
    assert "has lost its bytes" in ended.stderr
    assert saved(tmp_path) == {}


async def test_what_cannot_be_saved_is_named_and_the_others_are_saved(
    connection: Connection, job: UUID, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "-rf").mkdir()
    (tmp_path / "ä …").mkdir()
    await connection.execute("update pushq.artifact_pieces set data = 'y' where octet_length(data) = 5")
    ended = await run("save", str(job), "--into", str(tmp_path), "--overwrite", url=database_url)
    assert ended.returncode == 1
    for told in ("'-rf' cannot be saved: Is a dir", "'ä …' cannot be saved", "'large' of job", "3 of 5 artifacts"):
        assert told in ended.stderr
    assert {name: (tmp_path / name).read_bytes() for name in ("a.txt", "empty")} == {"a.txt": b"abc", "empty": b""}
    assert sorted(ended.stdout.splitlines()) == [str(tmp_path / "a.txt"), str(tmp_path / "empty")]
    assert {path.name for path in tmp_path.iterdir()} == {*FILES} - {"large"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_save_that_is_interrupted_leaves_no_file(
    connection: Connection, job: UUID, database_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    async with connection.transaction():
        await connection.execute("lock table pushq.artifact_pieces in access exclusive mode")
        with subprocess.Popen(  # noqa: ASYNC220 - it begins at once
            [sys.executable, "-m", "pushq", "artifacts", "save", str(job), "large", "--into", str(tmp_path)],
            env=environment(database_url),
            stderr=subprocess.PIPE,
        ) as process:

            async def has_begun() -> bool:
                return bool(saved(tmp_path))

            await eventually(has_begun)
            assert [name.startswith(".") for name in saved(tmp_path)] == [True]
            process.send_signal(number)
            await asyncio.to_thread(process.wait, 10)
            assert process.returncode != 0
    assert saved(tmp_path) == {}


async def test_a_folder_that_is_none_is_refused(job: UUID, database_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        ended = await run("save", str(job), "--into", str(tmp_path / place), url=database_url)
        assert ended.returncode == 2
        assert ended.stderr
    (tmp_path / "link").symlink_to("nowhere")
    ended = await run("save", str(job), "--into", str(tmp_path / "link"), url=database_url)
    assert ended.returncode == 2
    assert f"{tmp_path}/link is a symlink to nowhere, and nothing is there: make that folder" in ended.stderr
