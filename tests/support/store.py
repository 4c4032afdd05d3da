"""Every statement of pushq's, on one session."""

from __future__ import annotations

from pushq.exporter import store as exporter
from pushq.pool import store as pool
from pushq.supervisor import store as supervisor


class Store(pool.Store, supervisor.Store, exporter.Store):
    """What each room says. A supervisor's store has the sweeper's statements."""
