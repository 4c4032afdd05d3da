"""Beside the distribution `pushq`, which is somebody else's, ours says what has happened."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.prove.release.test_wheel import Installation, install, pip, wheel  # noqa: F401
from tests.support.supervisors import environment


@pytest.fixture(scope="session")
def namesake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel such as `pip install pushq` brings: somebody else's, with the same import name."""
    built = tmp_path_factory.mktemp("namesake") / "pushq-0.1.0b4-py3-none-any.whl"
    metadata = {
        "METADATA": "Metadata-Version: 2.1\nName: pushq\nVersion: 0.1.0b4\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files = {"pushq/__init__.py": "__all__ = ['Retry']\n", "pushq/_client.py": ""}
    files |= {f"pushq-0.1.0b4.dist-info/{name}": text for name, text in metadata.items()}
    record = "".join(f"{name},,\n" for name in [*files, "pushq-0.1.0b4.dist-info/RECORD"])
    with zipfile.ZipFile(built, "w") as archive:
        for name, text in (files | {"pushq-0.1.0b4.dist-info/RECORD": record}).items():
            archive.writestr(name, text)
    return built


@pytest.mark.parametrize("comes_last", [False, True])
def test_beside_the_package_of_the_same_name_pushq_refuses_to_start_until_both_are_put_right(
    wheel: Path,  # noqa: F811
    namesake: Path,
    tmp_path: Path,
    comes_last: bool,
) -> None:
    installation = install(tmp_path, *([wheel, namesake] if comes_last else [namesake, wheel]))
    assert _refusal(installation).startswith("pushq: The distribution 'pushq' is somebody else's")

    pip(installation.environment, "uninstall", "--yes", "pushq")
    assert _refusal(installation).endswith("pip install --force-reinstall --no-deps pushq-pg\n")
    pip(installation.environment, "install", "--force-reinstall", "--no-deps", "--no-index", str(wheel))
    assert "pushq, version" in installation.run(installation.pushq, "--version")
    assert "MODULE:TASKS" in installation.run(installation.pushq, "supervise", "--help")


def _refusal(installation: Installation) -> str:
    command = [installation.pushq, "jobs"]
    ended = subprocess.run(command, env=environment(None), cwd=installation.desk, capture_output=True, check=False)
    assert ended.returncode == 2
    return ended.stderr.decode()
