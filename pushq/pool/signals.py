"""A pool does nothing about signals. A terminal and systemd signal the whole group, and only the supervisor answers.

Programs started by a handler must get signals as usual. A started program inherits ignored signals as ignored, and
handled signals with their default actions. So a pool handles signals, by a function that does nothing. A child that is
only forked keeps the function: there the default actions are restored.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGPWR)
OTHERS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO)
"""Signals that a module of tasks may handle itself."""

_masks = threading.local()


def leave_to_the_supervisor(*signals: signal.Signals) -> None:
    """From now on the signals do nothing. A signal that is ignored, by nohup for example, stays ignored."""
    for number in signals:
        if signal.getsignal(number) == signal.SIG_IGN:
            continue
        signal.signal(number, _pass_over)
        signal.siginterrupt(number, False)


def spare_children() -> None:
    """Lets forked children get signals as any program does, from their first instant."""
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
