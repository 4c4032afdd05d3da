"""A wall clock that is off, for processes that a test starts. Their monotonic clock stays the machine's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.support.packages import unpacked

_IN_PYTHON = """
import datetime as module, os, time

off = float(os.environ["PUSHQ_TEST_CLOCK"])
right, right_ns, genuine = time.time, time.time_ns, module.datetime

class Either(type):
    def __instancecheck__(cls, instance):
        return isinstance(instance, genuine)

class datetime(genuine, metaclass=Either):
    @classmethod
    def now(cls, tz=None):
        return genuine.fromtimestamp(right() + off, tz)

    @classmethod
    def utcnow(cls):
        return genuine.utcfromtimestamp(right() + off)

time.time, time.time_ns, module.datetime = lambda: right() + off, lambda: right_ns() + int(off * 10**9), datetime
"""


def wrong_clock(seconds: float, directory: Path) -> Mapping[str, str]:
    """Environment of processes whose clock is so far ahead: by libfaketime, else by what Python itself can do."""
    files = unpacked("libfaketime")
    if library := next(files.rglob("libfaketimeMT.so*"), None) if files else None:
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME": f"{seconds:+.0f}",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",  # else every compiled module looks outdated, and is compiled anew for all
        }
    (directory / "sitecustomize.py").write_text(_IN_PYTHON)
    return {"PYTHONPATH": str(directory), "PUSHQ_TEST_CLOCK": f"{seconds}"}
