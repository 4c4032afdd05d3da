"""The oldest PostgreSQL that pushq promises: the machine's own, or Debian's package, unpacked into the user's cache."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from pushq.local.server import Binaries, _has_a_server
from tests.support.packages import unpacked

VERSION = 15

# A copy of the folder, which an unprivileged user may need, finds its own libraries.
_WITH_LIBRARIES = """#!/bin/sh
usr=$(dirname "$0")/../..
LD_LIBRARY_PATH=$(echo "$usr"/lib/*-linux-gnu) exec "$usr/lib/postgresql/{version}/bin/{program}" "$@"
"""


@cache
def binaries() -> Binaries | None:
    """None if this machine has none and none is to be had."""
    for place in (Path(f"/usr/lib/postgresql/{VERSION}/bin"), Path(f"/usr/pgsql-{VERSION}/bin")):
        if _has_a_server(place):
            return Binaries(place, (place.parent,))
    files = unpacked(f"postgresql-{VERSION}")
    return _with_libraries(files / "usr") if files else None


def _with_libraries(usr: Path) -> Binaries:
    programs = usr / "local" / "bin"
    if not programs.is_dir():
        with TemporaryDirectory(dir=usr) as directory:
            for program in ("initdb", "postgres"):
                path = Path(directory) / "bin" / program
                path.parent.mkdir(exist_ok=True)
                path.write_text(_WITH_LIBRARIES.format(version=VERSION, program=program))
                path.chmod(0o755)
            programs.parent.mkdir(exist_ok=True)
            with suppress(OSError):  # somebody else was quicker
                path.parent.rename(programs)
    return Binaries(programs, (usr,))
