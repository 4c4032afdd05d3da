"""Children that handlers fork: each is a copy of the pool, connections and all, and ends where its handler does."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

forked = list[int]()
"""This process, if it is such a child."""

os.register_at_fork(after_in_child=lambda: forked.append(os.getpid()))


def end_child(error: BaseException | None) -> NoReturn:
    """Ends it as the interpreter would; its handler has returned, or raised this error."""
    code: object = 0
    if isinstance(error, SystemExit):
        code = error.code or 0
    elif error:
        code = "".join(traceback.format_exception(error))
    if not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
