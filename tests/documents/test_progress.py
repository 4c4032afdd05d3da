"""docs/how-to/progress.md: what the page shows runs as it stands."""

from __future__ import annotations

from pathlib import Path

from tests.support.jobs import Connection, finished, insert
from tests.support.pages import blocks
from tests.support.supervisors import ROOT, supervising

PAGE = (ROOT / "docs" / "how-to" / "progress.md").read_text()


async def test_a_long_job_tells_its_progress_and_its_phases(
    connection: Connection, database_url: str, tmp_path: Path
) -> None:
    (code,) = blocks("python", PAGE)
    (asked,) = blocks("sql", PAGE)
    (tmp_path / "videos.py").write_text(code)
    with supervising(database_url, tasks="videos:tasks", directory=str(tmp_path)):
        (job,) = await insert(connection, "video.convert", payload={"parts": 3})
        await finished(connection, job)
    row = await connection.fetchrow(asked.replace("0192f0c1-…", str(job)))
    assert tuple(row or ()) == ("uploading", "3", "3")
