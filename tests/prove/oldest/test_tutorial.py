from __future__ import annotations

from tests.documents.test_tutorial import test_the_tutorial_runs_as_it_stands  # noqa: F401
