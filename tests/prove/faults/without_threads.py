"""The system has no thread left to give, for as long as a file is there. As a program, it is `pushq` under it.

PUSHQ_TEST_NO_THREADS: the file.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

_start = threading._start_new_thread  # type: ignore[attr-defined]


def _start_unless_there_is_none_left(*arguments: Any) -> Any:
    if Path(os.environ["PUSHQ_TEST_NO_THREADS"]).exists():
        raise RuntimeError("can't start new thread")
    return _start(*arguments)


threading._start_new_thread = _start_unless_there_is_none_left  # type: ignore[attr-defined]

if __name__ == "__main__":
    from pushq.cli import main

    main()
