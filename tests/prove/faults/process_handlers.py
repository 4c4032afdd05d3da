"""Tasks that fork, leave orphans behind, or cannot be imported.

PUSHQ_TEST_BROKEN: a file that says how the import of this module goes wrong, for as long as the file is there.
PUSHQ_TEST_EXITS: a file to which this module writes at exit; if it ends with `hangs`, this module then hangs.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pushq.pool.leaving
from tests.support.handlers import tasks

__all__ = ["tasks"]

if (broken := os.environ.get("PUSHQ_TEST_BROKEN")) and Path(broken).exists():
    if Path(broken).read_text() == "dies":
        os._exit(3)
    raise ImportError("as after a bad deploy")


if exits := os.environ.get("PUSHQ_TEST_EXITS"):

    def _say_goodbye(path: Path) -> None:
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")
        logging.getLogger("at.exit").warning("goodbye")
        if path.name.endswith("hangs"):
            time.sleep(60)

    pushq.pool.leaving.LAST_WORDS = 0.5
    pushq.pool.leaving.LAST_WORDS_OF_A_FAULT = 0.5
    atexit.register(_say_goodbye, Path(exits))


# A child of each kind, and the status with which it is to end.
CHILDREN: dict[str, tuple[Callable[[], object], int]] = {
    "exits": (lambda: os._exit(5), 5),
    "says goodbye": (lambda: sys.exit(6), 6),
    "returns": (lambda: "the child's own result", 0),
    "raises": (lambda: int("no number"), 1),
}


def _fork(kind: str) -> object:
    """In the parent how the child ended, in the child what it does."""
    child, _ = CHILDREN[kind]
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return child()


@tasks.register("fork")
async def fork(kind: str) -> object:
    return _fork(kind)


@tasks.register("fork.thread")
def fork_in_a_thread(kind: str) -> object:
    return _fork(kind)


@tasks.register("multiprocessing")
def use_multiprocessing() -> int:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.01,))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@tasks.register("subprocess")
def use_a_subprocess() -> str:
    return subprocess.run(["echo", "hello"], capture_output=True, text=True, check=True).stdout


@tasks.register("start.and.signal")
def start_and_signal(how: str, number: int) -> object:
    """How a child ends that is started in some way, and sent a signal at once."""
    return _STARTS[how](signal.Signals(number))


def _signal_a_program(number: signal.Signals) -> object:
    with subprocess.Popen(["sleep", "60"]) as child:
        return _ended(child.pid, number)


def _signal_a_shell(number: signal.Signals) -> object:
    """Which catches signals, as it can only what is not ignored at its start."""
    script = f"trap 'exit 7' {number.name[3:]}; echo ready; sleep 60 & wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout
        child.stdout.readline()
        code = _ended(child.pid, number)
        os.killpg(child.pid, signal.SIGKILL)
        return code


def _signal_a_fork(number: signal.Signals) -> object:
    if (pid := os.fork()) == 0:
        time.sleep(60)
        os._exit(1)
    return _ended(pid, number)


def _signal_a_process(context: str, number: signal.Signals) -> object:
    child = multiprocessing.get_context(context).Process(target=time.sleep, args=(60,))  # type: ignore[attr-defined]
    child.start()
    os.kill(child.pid, number)
    child.join(10)
    if child.exitcode is None:
        child.kill()
    return child.exitcode


def _end_a_pool(_: signal.Signals) -> object:
    """Of processes, which it terminates."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(abs, range(-5, 0)))


def _ended(pid: int, number: signal.Signals) -> object:
    os.kill(pid, number)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    return "lives"


_STARTS: dict[str, Callable[[signal.Signals], object]] = {
    "program": _signal_a_program,
    "shell": _signal_a_shell,
    "fork": _signal_a_fork,
    "process, forked": partial(_signal_a_process, "fork"),
    "process, spawned": partial(_signal_a_process, "spawn"),
    "pool": _end_a_pool,
}


@tasks.register("inheritable")
async def inheritable() -> list[int]:
    """What a program that is started would have open."""
    files = [file for file in Path("/proc/self/fd").iterdir() if file.exists()]
    return [int(file.name) for file in files if int(file.name) > 2 and os.get_inheritable(int(file.name))]


@tasks.register("orphan")
def leave_an_orphan(seconds: float) -> None:
    """It outlives who started it, and dies when nobody waits for it."""
    subprocess.run([sys.executable, "-c", f"import subprocess; subprocess.Popen(['sleep', '{seconds}'])"], check=True)
