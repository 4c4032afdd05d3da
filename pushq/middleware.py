"""What an app wraps around each attempt: a span for tracing, a tenant's settings, a line in a log."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from pushq.job import Job

Middleware: TypeAlias = Callable[[Job], AbstractAsyncContextManager[object]]
