"""Where a pool's process begins: `python -m pushq.pool_process FD PARENT ASKED`.

A module beside the package `pushq.pool`, so that the garbage collector rests before the package is imported.
"""

from __future__ import annotations

import gc

from pushq.local.imports import garbage_left

with garbage_left():
    from pushq.pool.process import main

    gc.freeze()  # pushq lives as long as the process

if __name__ == "__main__":
    main()
