"""pgbench: clients in C, for loads that Python clients are too slow for."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qsl, unquote, urlsplit

import anyio

from pushq.database.url import normalise
from pushq.errors import PushqError, UsageError
from pushq.local.server import find_binaries

_VARIABLES = {
    "host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "passfile": "PGPASSFILE",
    "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Throughput:
    """Transactions a second: over the whole run without connecting, and in each second."""

    overall: float
    by_second: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pgbench:
    program: Path

    @classmethod
    def find(cls, beside: Path | None = None) -> Pgbench:
        """The pgbench beside a server's programs, of PUSHQ_PG_BINDIR, of PATH or of the embedded wheel.

        Raises UsageError.
        """
        named = os.environ.get("PUSHQ_PG_BINDIR")
        places = [*filter(None, [beside, Path(named) if named else None])]
        if on_path := shutil.which("pgbench"):
            places.append(Path(on_path).parent)
        with suppress(UsageError):
            places.append(find_binaries().directory)
        for place in places:
            if (place / "pgbench").is_file():
                return cls(place / "pgbench")
        raise UsageError(
            f"There is no pgbench in {', '.join(map(str, places)) or 'PATH'}; install PostgreSQL's client programs "
            "(Debian: postgresql-contrib), name their directory in PUSHQ_PG_BINDIR, or: "
            "pip install 'pushq-pg[embedded]'."
        )

    async def run(
        self,
        url: str,
        script: str,
        *,
        clients: int = 1,
        seconds: int | None = None,
        transactions: int | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Throughput:
        """Runs a script with prepared statements, for `seconds`, or for `transactions` of each client.

        Raises PushqError if pgbench fails.
        """
        length = [f"--time={seconds}"] if seconds else [f"--transactions={transactions}"]
        threads = min(clients, os.cpu_count() or 1)
        with TemporaryDirectory(prefix="pushq-bench-") as directory:
            file = Path(directory) / "script.sql"
            file.write_text(script)
            return await self._run(
                url,
                [
                    "--no-vacuum",
                    "--protocol=prepared",
                    "--progress=1",
                    f"--file={file}",
                    f"--client={clients}",
                    f"--jobs={threads}",
                    *length,
                    *(f"--define={name}={value}" for name, value in (variables or {}).items()),
                ],
            )

    async def _run(self, url: str, flags: Sequence[str]) -> Throughput:
        ended = await anyio.run_process(
            [str(self.program), *flags],
            env=_environment(url),
            check=False,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then kills pgbench
        )
        said, complained = ended.stdout.decode(), ended.stderr.decode()
        rate = re.search(r"tps = ([\d.]+)", said)
        if ended.returncode != 0 or rate is None:
            raise PushqError(f"pgbench failed: {_last_complaint(complained)}")
        return Throughput(
            float(rate[1]), tuple(map(float, re.findall(r"^progress: .*?([\d.]+) tps", complained, re.MULTILINE)))
        )


def _environment(url: str) -> dict[str, str]:
    """The environment for pgbench. The URL goes into libpq's variables, so that argv shows no password."""
    parts = urlsplit(normalise(url))
    given = {
        "host": unquote(parts.hostname or ""),
        "port": str(parts.port or ""),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        **dict(parse_qsl(parts.query)),
    }
    connection = {variable: given[name] for name, variable in _VARIABLES.items() if given.get(name)}
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LD_LIBRARY_PATH")}
    inherited = {name: value for name, value in os.environ.items() if name.startswith("PG")}
    return kept | inherited | connection | {"PGDATABASE": unquote(parts.path.lstrip("/"))}


def _last_complaint(text: str) -> str:
    errors = [line for line in text.splitlines() if "error" in line.lower() or "ERROR" in line]
    return (errors or text.splitlines() or ["no output"])[0]
