"""A newcomer's first hour: README's quick start, and the tutorial."""

from __future__ import annotations

from tests.documents.test_quick_start import test_the_quick_start_of_the_readme_runs_as_it_stands
from tests.documents.test_tutorial import test_the_tutorial_runs_as_it_stands
