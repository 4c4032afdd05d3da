"""Django: `django.db.connection`, or one of `django.db.connections`, over psycopg 3, in its transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pushq.errors import UnusableConnection
from pushq.producers.percents import in_percents


def _on_connection(connection: Any, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    _refuse_other_databases(connection)
    with connection.cursor() as cursor:
        cursor.execute(in_percents(text), values)
        return list(cursor.fetchall())


def _refuse_other_databases(connection: Any) -> None:
    driver = getattr(getattr(connection, "Database", None), "__name__", "none")
    if getattr(connection, "vendor", None) != "postgresql" or driver != "psycopg":
        raise UnusableConnection(
            f"This connection of Django's is by the driver {driver}; choose a database with the engine "
            "django.db.backends.postgresql, and install psycopg 3: pip install 'psycopg[binary]'."
        )


SYNC = {"django.db.backends.base.base.BaseDatabaseWrapper django.utils.connection.ConnectionProxy": _on_connection}

REFUSED = {
    "django.db.utils.ConnectionHandler": "give django.db.connection, or django.db.connections['default']",
    "django.db.backends.utils.CursorWrapper": "give django.db.connection, or django.db.connections['default']",
}
