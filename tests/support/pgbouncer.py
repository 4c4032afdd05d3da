"""PgBouncer: the machine's own, or Debian's package, unpacked into the user's cache."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from pushq.database.session import Session
from pushq.local.server import _unprivileged_account
from tests.support.waiting import wait_until

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pushq-tests" / "pgbouncer"
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"


SWALLOWED = ",".join([*Session(None, "any").settings, "synchronous_commit", "options"])


@contextmanager
def pooling(url: str, mode: str = "transaction", *, swallows: bool = False, **more: object) -> Iterator[str]:
    """A pooler with four connections to the server of `url`, and a URL that leads through it.

    swallows: it takes what a session wants to be set from its start, and forgets it. more: settings of its own.
    """
    program, account = _program(), _unprivileged_account()
    chosen = {"default_pool_size": 4, "ignore_startup_parameters": SWALLOWED if swallows else ""} | more
    with TemporaryDirectory(prefix="pushq-pgbouncer-") as directory:
        configuration = Path(directory) / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = {_as_keywords(url)}\n"
            f"[pgbouncer]\npool_mode = {mode}\nauth_type = any\nunix_socket_dir = {directory}\nlisten_port = 6432\n"
            + "".join(f"{name} = {value}\n" for name, value in chosen.items())
        )
        become = ["-u", account.pw_name] if account else []
        if account:
            os.chown(directory, account.pw_uid, account.pw_gid)
        process = subprocess.Popen(
            [program.path, "-q", *become, configuration], env=program.environment, stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: process.poll() is not None or _listens(Path(directory) / ".s.PGSQL.6432"))
            assert process.poll() is None, "PgBouncer did not start"
            yield f"postgresql://pooled@/{_database(url)}?host={quote(directory)}&port=6432"
        finally:
            process.terminate()
            process.wait(10)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def _database(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


def _as_keywords(url: str) -> str:
    """How the pooler finds the server, whatever user its clients name."""
    parts, query = urlsplit(url), parse_qs(urlsplit(url).query)
    given = {
        "host": query.get("host", [parts.hostname or "localhost"])[0],
        "port": query.get("port", [str(parts.port or 5432)])[0],
        "user": unquote(parts.username or "") or query.get("user", [""])[0],
        "password": unquote(parts.password or ""),
    }
    return " ".join(f"{name}='{value}'" for name, value in given.items() if value)


# The program --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Program:
    path: Path
    libraries: tuple[Path, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": _PATH, "LD_LIBRARY_PATH": ":".join(map(str, self.libraries))}


@cache
def _program() -> _Program:
    """Skips the test where there is none and none is to be had."""
    if found := shutil.which("pgbouncer", path=_PATH):
        return _Program(Path(found))
    if not CACHE.is_dir():
        try:
            _fetch()
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"there is no pgbouncer here, and Debian's package cannot be had: {error}")
    libraries = tuple(path for path in CACHE.glob("**/lib/*-linux-gnu*") if path.is_dir())
    return _Program(CACHE / "usr" / "sbin" / "pgbouncer", libraries)


def _fetch() -> None:
    """Debian's package and the libraries that this machine lacks, unpacked."""
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=CACHE.parent) as directory:
        needed = re.findall(r"Depends: (lib\S+)", _run("apt-cache", "depends", "pgbouncer", cwd=directory))
        missing = [package for package in needed if not _is_installed(package, directory)]
        _run("apt-get", "download", "pgbouncer", *missing, cwd=directory)
        unpacked = Path(directory) / "unpacked"
        for package in Path(directory).glob("*.deb"):
            _run("dpkg", "-x", str(package), str(unpacked), cwd=directory)
        with suppress(OSError):  # another worker was quicker
            unpacked.rename(CACHE)


def _is_installed(package: str, directory: str) -> bool:
    with suppress(subprocess.CalledProcessError):
        return "install ok installed" in _run("dpkg-query", "-W", "-f=${Status}", package, cwd=directory)
    return False


def _run(*command: str, cwd: str) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True, timeout=120).stdout
