"""Prometheus's own judge of rules: promtool as it is installed, else out of Debian's package, for which nobody need be
root and nothing is installed.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.supervisors import ROOT

BUILD = ROOT / "build"


@cache
def promtool() -> str:
    """Where it is. Raises AssertionError where it is not to be had."""
    return shutil.which("promtool") or str(_unpacked(BUILD / "promtool"))


def _unpacked(program: Path) -> Path:
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "promtool.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            with TemporaryDirectory(dir=BUILD) as directory:
                _fetch(Path(directory)).replace(program)
    return program


def _fetch(directory: Path) -> Path:
    """By the lists of packages that there are, else by lists of our own."""
    (directory / "lists" / "partial").mkdir(parents=True)
    (directory / "cache" / "archives" / "partial").mkdir(parents=True)
    own = ("-o", f"Dir::State::lists={directory}/lists", "-o", f"Dir::Cache={directory}/cache")
    said = ""
    for *update, download in ([["download"]], [["update", *own], ["download", *own]]):
        for command in (*update, [*download, "prometheus"]):
            said += _run(directory, "apt-get", "-q", *command)
        if packages := [*directory.glob("prometheus_*.deb")]:
            said += _run(directory, "dpkg", "-x", str(packages[0]), str(directory / "unpacked"))
            return directory / "unpacked" / "usr" / "bin" / "promtool"
    raise AssertionError(f"The alerts are judged by promtool: install it (Debian: apt install prometheus).\n{said}")


def _run(directory: Path, *command: str) -> str:
    if not shutil.which(command[0]):
        return f"there is no {command[0]}\n"
    return subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False
    ).stdout
