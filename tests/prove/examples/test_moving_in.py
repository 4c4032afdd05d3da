from __future__ import annotations

from tests.examples.test_moving_in import *  # noqa: F403
