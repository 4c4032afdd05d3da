"""Tasks whose process notes what it imports, runs and unpickles, from their own import on."""

from __future__ import annotations

import os
import sys

from pushq import Tasks

tasks = Tasks()
_LOG = os.open(os.environ["PUSHQ_TEST_AUDIT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_WATCHED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "pickle.find_class",
    "import",
    "exec",
)


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event in _WATCHED:
        os.write(_LOG, f"{event} {arguments[0]}\n".encode(errors="replace"))


@tasks.register("echo")
async def echo(**payload: object) -> dict[str, object]:
    return payload


@tasks.register("import")
async def import_something() -> None:
    import colorsys  # noqa: F401


sys.addaudithook(_note)
