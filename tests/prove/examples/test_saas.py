from __future__ import annotations

from tests.examples.test_saas import *  # noqa: F403
