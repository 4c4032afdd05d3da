"""Long tests once more, with the oldest PostgreSQL that pushq promises."""

from __future__ import annotations

from tests.oldest.conftest import databases, server, template  # noqa: F401
