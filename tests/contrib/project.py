"""The Django project of the tests, in this process and in others."""

from __future__ import annotations

import os
from typing import Any

from psycopg.conninfo import conninfo_to_dict

SETTINGS = "tests.contrib.shop.settings"


def database(url: str) -> dict[str, Any]:
    """One of settings.DATABASES."""
    parts = conninfo_to_dict(url)
    given: dict[str, Any] = {"ENGINE": "django.db.backends.postgresql", "NAME": parts.pop("dbname")}
    given |= {name.upper(): parts.pop(name, "") for name in ("user", "password", "host", "port")}
    return given | {"OPTIONS": parts}


def set_up() -> None:
    """Once a process, since Django's settings are."""
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = SETTINGS
    django.setup()


def use(url: str) -> None:
    """Has Django's default connection be to this database from now on."""
    from django.db import connections

    set_up()
    connections["default"].close()
    connections.settings["default"] |= database(url)
    del connections["default"]
