from __future__ import annotations

from tests.examples.test_ingest import *  # noqa: F403
