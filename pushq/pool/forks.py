"""Children that handlers fork. A child is a copy of the pool, connections and all, and ends when its handler ends."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

forked = list[int]()
"""The process id of such a child; empty in the pool."""

os.register_at_fork(after_in_child=lambda: forked.append(os.getpid()))


def end_child(error: BaseException | None) -> NoReturn:
    """Ends the child as the interpreter would, when the handler has returned (None) or raised."""
    try:
        code = _code(error)
    except BaseException:  # noqa: BLE001 - the exception's methods are the user's code, and the child must end
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _code(error: BaseException | None) -> int:
    """The exit code. Says what is to be said."""
    code: object = 0
    if issubclass(type(error), SystemExit):
        code = error.code or 0  # type: ignore[union-attr]
    elif error is not None:
        code = "".join(traceback.format_exception(error))
    if isinstance(code, int):
        return code
    sys.stderr.write(f"{code}\n")
    return 1
