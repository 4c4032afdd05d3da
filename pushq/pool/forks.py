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
