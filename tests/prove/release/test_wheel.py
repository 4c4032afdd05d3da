"""What users install: the wheel alone, without the checkout, migrates a database and runs a job."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.supervisors import QUICK, ROOT, environment

APP = """
from pushq import Tasks

tasks = Tasks()


@tasks.register("add")
async def add(left: int, right: int) -> int:
    return left + right
"""


@dataclass
class Installation:
    """A virtual environment that has the wheel, and a folder of a user's own to be in."""

    wheel: Path
    environment: Path
    desk: Path

    @property
    def pushq(self) -> str:
        return str(self.environment / "bin" / "pushq")

    def run(self, *command: str, url: str | None = None) -> str:
        ended = subprocess.run(
            command, env=environment(url), cwd=self.desk, capture_output=True, text=True, timeout=50, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(home), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = home.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return install(tmp_path_factory.mktemp("installation"), wheel)


def install(home: Path, *wheels: Path) -> Installation:
    """The dependencies are this environment's own, by a .pth file. It does not bring the checkout: Python obeys no .pth
    files in a folder that it found by one.
    """
    place, desk = home / "environment", home / "desk"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    for wheel in wheels:
        pip(place, "install", "--no-deps", "--no-index", str(wheel))
    (site_packages,) = place.glob("lib/python3*/site-packages")
    (site_packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    desk.mkdir()
    (desk / "app.py").write_text(APP)
    return Installation(wheels[-1], place, desk)


def pip(place: Path, command: str, *arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(place), command, "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *arguments], check=True)


def test_the_wheel_holds_the_package_its_sql_and_the_migrations_and_nothing_else(installation: Installation) -> None:
    names = set(zipfile.ZipFile(installation.wheel).namelist())
    shipped = {str(file.relative_to(ROOT)) for file in (ROOT / "pushq").rglob("*") if _is_source(file)}
    migrations = {f"pushq/migrations/{file.name}" for file in (ROOT / "migrations").glob("*.sql")}

    assert {name for name in names if ".dist-info/" not in name} == shipped | migrations
    assert "pushq/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def _is_source(file: Path) -> bool:
    return file.is_file() and file.suffix != ".pyc"


def test_an_installed_pushq_does_not_see_the_checkout(installation: Installation) -> None:
    look = "import pushq, pushq.database.migrate as m; print(pushq.__file__, m._directory(), sep='\\n')"
    package, migrations = installation.run(str(installation.environment / "bin" / "python"), "-c", look).split()

    assert Path(package).is_relative_to(installation.environment)
    assert Path(migrations).is_relative_to(installation.environment)


def test_an_installed_pushq_migrates_a_database_and_runs_a_job_of_a_module_in_the_current_directory(
    installation: Installation, empty_database_url: str
) -> None:
    url = empty_database_url
    installation.run(installation.pushq, "migrate", url=url)
    assert "up to date" in installation.run(installation.pushq, "migrate", "--check", url=url)

    log = installation.desk / "log"
    with log.open("wb") as writable:
        supervisor = subprocess.Popen(
            [installation.pushq, "supervise", "app:tasks", "--http-port", "0"],
            env=environment(url, **QUICK),
            cwd=installation.desk,
            stderr=writable,
        )
    try:
        payload = json.dumps({"left": 40, "right": 2})
        job = ["enqueue", "add", "--payload", payload, "--wait", "--json"]
        row = json.loads(installation.run(installation.pushq, *job, url=url))
        supervisor.terminate()
        assert supervisor.wait(20) == 0, log.read_text()
    finally:
        supervisor.kill()
        supervisor.wait()

    assert (row["status"], str(row["result"])) == ("succeeded", "42")
