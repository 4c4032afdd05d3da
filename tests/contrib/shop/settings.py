"""A Django project of one app. DATABASE_URL: its database."""

from __future__ import annotations

import os
from datetime import timedelta

from tests.contrib.project import database

DATABASES = {"default": database(os.environ.get("DATABASE_URL", "postgresql://localhost/none"))}
INSTALLED_APPS = ["tests.contrib.shop"]
TASKS = {
    "default": {"BACKEND": "pushq.contrib.django.PushqBackend", "QUEUES": ["default", "slow"]},
    "stubborn": {
        "BACKEND": "pushq.contrib.django.PushqBackend",
        "OPTIONS": {"max_attempts": 2, "timeout": timedelta(seconds=0.5)},
    },
    "at once": {
        "BACKEND": "django.tasks.backends.immediate.ImmediateBackend"
        if __import__("django").VERSION >= (6,)
        else "django_tasks.backends.immediate.ImmediateBackend"
    },
}
USE_TZ = True
TIME_ZONE = None
"""That of the process: Django would set another for all tests that the process still runs."""
SECRET_KEY = "of no use"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGGING_CONFIG = None
