"""docs/how-to/django.md, typed into an empty folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import django
import psycopg
import pytest

from tests.support.supervisors import ROOT, environment, supervising

SETTINGS = """
from tests.contrib.project import database
DATABASES = {{"default": database({url!r})}}
INSTALLED_APPS = ["shop"]
SECRET_KEY = "of no use"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
MODELS = """
from django.db import models
class User(models.Model):
    name = models.TextField()
    class Meta:
        db_table = "users"
"""
PROGRAM = """
import sys, time
sys.path.append({root!r})
import django
django.setup()
from django.db import transaction
from shop.models import User
from shop.tasks import send_welcome
{enqueue}
while not result.is_finished:
    time.sleep(0.05)
    result.refresh()
{look}
"""


def test_the_page_typed_into_an_empty_folder_runs(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, tasks, enqueue, look = examples()
    if django.VERSION < (6,):
        tasks = re.sub("from .*  # Django 5.2: ", "", tasks)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "models.py").write_text(MODELS)
    (tmp_path / "shop" / "tasks.py").write_text(tasks)
    (tmp_path / "settings.py").write_text(SETTINGS.format(url=database_url) + settings)
    with psycopg.connect(database_url) as connection:
        connection.execute("create table users (id bigint generated always as identity primary key, name text)")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "settings")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    program = PROGRAM.format(root=str(ROOT), enqueue=enqueue, look=look)

    with supervising(database_url, tasks="pushq.contrib.django.tasks:tasks", directory=str(tmp_path)):
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment(database_url),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert ended.stdout == "SUCCESSFUL Welcome, Ada!\n", ended.stderr


def examples() -> list[str]:
    text = (ROOT / "docs" / "how-to" / "django.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
