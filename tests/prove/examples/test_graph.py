from __future__ import annotations

from tests.examples.test_graph import *  # noqa: F403
