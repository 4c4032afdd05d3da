"""The signals that a supervisor obeys. By its default each of them would end the process, and leave its jobs behind."""

from __future__ import annotations

import signal

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""The first drains, the second stops at once."""
DRAIN = (signal.SIGHUP, signal.SIGPWR, signal.SIGXCPU)
"""Drain, and are no second signal: they come beside others, or again and again."""
SHOW = signal.SIGUSR1
"""Has every pool write down what its workers are doing."""
PASSED_OVER = (signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO)


def obeyed() -> list[signal.Signals]:
    """Whoever has started us may want SIGHUP ignored: nohup does."""
    every = (*STOP, *DRAIN, SHOW, *PASSED_OVER)
    return [number for number in every if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
