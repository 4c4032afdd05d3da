"""A newcomer's first hour begins with README's quick start."""

from __future__ import annotations

from tests.documents.test_quick_start import test_the_quick_start_of_the_readme_runs_as_it_stands
