"""PgBouncer: the machine's own, or Debian's package, unpacked into the user's cache."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from pushq.database.session import Session
from pushq.local.server import _unprivileged_account
from tests.support.packages import libraries, unpacked
from tests.support.waiting import wait_until

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
    libraries: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": _PATH, "LD_LIBRARY_PATH": self.libraries}


@cache
def _program() -> _Program:
    """Skips the test where there is none and none is to be had."""
    if found := shutil.which("pgbouncer", path=_PATH):
        return _Program(Path(found))
    if files := unpacked("pgbouncer"):
        return _Program(files / "usr" / "sbin" / "pgbouncer", libraries(files))
    pytest.skip("there is no pgbouncer here, and Debian's package cannot be had")
