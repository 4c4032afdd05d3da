"""Tasks whose module does, when it is imported, what applications do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from tests.support.handlers import tasks

__all__ = ["tasks"]


async def _settings() -> dict[str, int]:
    await asyncio.sleep(0)
    return {"answer": 42}


def _leave(*_: Any) -> None:
    sys.exit(3)


SETTINGS = [asyncio.run(_settings())]
_loop = asyncio.new_event_loop()
asyncio.set_event_loop(_loop)
SETTINGS.append(asyncio.get_event_loop().run_until_complete(_settings()))
_loop.close()

signal.signal(signal.SIGTERM, _leave)
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=time.sleep, args=(3600,)).start()
logging.disable(logging.CRITICAL)
warnings.simplefilter("error")
if slow := os.environ.get("PUSHQ_TEST_SLOW_IMPORT"):
    Path(slow).touch()
    time.sleep(3600)
os.chdir("/")


@tasks.register("settings")
async def settings() -> list[dict[str, int]]:
    return SETTINGS
