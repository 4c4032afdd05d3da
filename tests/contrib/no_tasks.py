"""Settings of a project without tasks."""

from __future__ import annotations

TASKS = {"default": {"BACKEND": "pushq.contrib.django.PushqBackend"}}
