"""INSERTs from Python, by every driver."""

from __future__ import annotations

from tests.producers.test_callers import *
