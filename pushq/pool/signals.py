"""What a pool makes of signals: nothing. A terminal and systemd signal the whole group; only the supervisor answers.

They are not ignored, which whatever a handler starts would inherit, but handled, by a function that does nothing: what
is handled is as it was at first in a program that is started. In a child that is only forked it is made so.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGPWR)
OTHERS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO)
"""Which a module of tasks may take for itself."""

_masks = threading.local()


def leave_to_the_supervisor(*signals: signal.Signals) -> None:
    """But for those that somebody wants ignored, as nohup does."""
    for number in signals:
        if signal.getsignal(number) == signal.SIG_IGN:
            continue
        signal.signal(number, _pass_over)
        signal.siginterrupt(number, False)


def spare_children() -> None:
    """From now on, what is forked gets signals as any program does, also one that comes at once."""
    os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals_go, after_in_child=_be_as_any_program)


def _pass_over(_number: int, _frame: FrameType | None) -> None: ...


def _hold_signals() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPPING, *OTHERS))


def _let_signals_go() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _be_as_any_program() -> None:
    for number in (*STOPPING, *OTHERS):
        if signal.getsignal(number) is _pass_over:
            signal.signal(number, signal.SIG_DFL)
    _let_signals_go()
