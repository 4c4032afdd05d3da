"""A Django project of one app, on the database that DATABASE_URL names."""

from __future__ import annotations

import os

from psycopg.conninfo import conninfo_to_dict

_parts = conninfo_to_dict(os.environ["DATABASE_URL"])

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _parts.pop("dbname"),
        **{name.upper(): _parts.pop(name, "") for name in ("user", "password", "host", "port")},
        "OPTIONS": _parts,
    }
}
INSTALLED_APPS = ["tests.contrib.shop"]
USE_TZ = True
SECRET_KEY = "of no use"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
