"""Django's Tasks as jobs, enqueued in Django's transaction.

They are run by `pushq supervise pushq.contrib.django.tasks:tasks`.
"""

from __future__ import annotations

from pushq.contrib.django.backend import PushqBackend

__all__ = ["PushqBackend"]
