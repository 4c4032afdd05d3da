"""The signals that a supervisor obeys. By default each signal would end the process, and leave jobs behind."""

from __future__ import annotations

import signal

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""The first drains, the second stops at once."""
DRAIN = (signal.SIGHUP, signal.SIGPWR, signal.SIGXCPU)
"""Drain, and never count as a second signal, since systems send these signals beside others, or repeatedly."""
SHOW = signal.SIGUSR1
"""Tells every pool to log what the workers are doing."""
PASSED_OVER = (signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO)
"""Received, and ignored."""


def obeyed() -> list[signal.Signals]:
    """The signals to receive.

    SIGHUP is left out where the starter of the supervisor, nohup for example, ignores SIGHUP.
    """
    every = (*STOP, *DRAIN, SHOW, *PASSED_OVER)
    return [number for number in every if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
