from __future__ import annotations

from tests.examples.test_model_coordination import *  # noqa: F403
