"""The tables of a page of the reference, for the tests that compare them with the program."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.supervisors import ROOT

REFERENCE = ROOT / "docs" / "reference"


def rows(page: Path | str) -> dict[str, list[str]]:
    """The other cells of each row, by its first cell's name in backticks. Raises AssertionError for a name twice."""
    text = page if isinstance(page, str) else page.read_text()
    found: dict[str, list[str]] = {}
    for name, cells in re.findall(r"^\| `([^`]+)`[^|]*\|(.*)\|$", text, re.MULTILINE):
        assert name not in found, name
        found[name] = [cell.strip() for cell in cells.split("|")]
    return found
