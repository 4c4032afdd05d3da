"""Debian's packages for the tests, without root: fetched, unpacked into a cache, and never installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory


def unpacked(*packages: str) -> Path | None:
    """The folder that holds the files of these packages, as `/` would; None where they cannot be had."""
    kept = home("+".join(packages))
    if kept.is_dir():
        return kept
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return None
    with TemporaryDirectory(dir=kept.parent) as directory:
        fetched = Path(directory) / "fetched"
        fetched.mkdir()
        if not _runs("apt-get", "download", "-qq", *packages, cwd=fetched):
            return None
        files = Path(directory) / "files"
        for package in fetched.glob("*.deb"):
            if not _runs("dpkg-deb", "-x", str(package), str(files), cwd=fetched):
                return None
        with suppress(OSError):  # somebody else was quicker
            files.rename(kept)
    return kept


def home(name: str) -> Path:
    """The folder in the user's cache for what is fetched under a name; its parent exists."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pushq-tests"
    cache.mkdir(parents=True, exist_ok=True)
    return cache / name


def _runs(*command: str, cwd: Path) -> bool:
    try:
        return subprocess.run(command, cwd=cwd, capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
