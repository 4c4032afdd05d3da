"""Tasks that fork, leave orphans behind, or cannot be imported.

PUSHQ_TEST_BROKEN: a file that says how the import of this module goes wrong, for as long as the file is there.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.handlers import tasks

__all__ = ["tasks"]

if (broken := os.environ.get("PUSHQ_TEST_BROKEN")) and Path(broken).exists():
    if Path(broken).read_text() == "dies":
        os._exit(3)
    raise ImportError("as after a bad deploy")


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


@tasks.register("orphan")
def leave_an_orphan(seconds: float) -> None:
    """It outlives who started it, and dies when nobody waits for it."""
    subprocess.run([sys.executable, "-c", f"import subprocess; subprocess.Popen(['sleep', '{seconds}'])"], check=True)
