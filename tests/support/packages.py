"""Debian's packages for the tests, without root: fetched, unpacked into a cache, and never installed."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory


def unpacked(*packages: str) -> Path | None:
    """The folder that holds the files of these packages, as `/` would; None if the packages cannot be had.

    Libraries that the packages need and the machine lacks lie there too: see `libraries`.
    """
    kept = home("+".join(packages))
    with kept.with_name(f"{kept.name}.lock").open("w") as lock:  # one worker fetches, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_dir():
            with TemporaryDirectory(dir=kept.parent) as directory, suppress(OSError, subprocess.SubprocessError):
                _fetched({*packages, *_missing_libraries(packages)}, Path(directory)).rename(kept)
    return kept if kept.is_dir() else None


def libraries(files: Path) -> str:
    """The value of LD_LIBRARY_PATH for programs of an unpacked folder."""
    return ":".join(str(path) for path in files.glob("**/lib/*-linux-gnu*") if path.is_dir())


def home(name: str) -> Path:
    """The folder in the user's cache for what is fetched under a name; its parent exists."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pushq-tests"
    cache.mkdir(parents=True, exist_ok=True)
    return cache / name


def _fetched(packages: Iterable[str], directory: Path) -> Path:
    _run("apt-get", "download", "-qq", *packages, cwd=directory)
    files = directory / "files"
    for package in directory.glob("*.deb"):
        _run("dpkg-deb", "-x", str(package), str(files), cwd=directory)
    return files


def _missing_libraries(packages: Iterable[str]) -> set[str]:
    missing: set[str] = set()
    asked = set(packages)
    while asked:
        needed = re.findall(r"Depends: (lib\S+)", _run("apt-cache", "depends", *asked))
        asked = {library for library in needed if library not in missing and not _is_installed(library)}
        missing |= asked
    return missing


def _is_installed(package: str) -> bool:
    with suppress(subprocess.CalledProcessError):
        return "install ok installed" in _run("dpkg-query", "-W", "-f=${Status}", package)
    return False


def _run(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=True).stdout
