"""Pages of the reference whose lower part is what the program says of itself; the upper part is written by hand.

`.venv/bin/python -m tests.documents.written` writes the lower parts anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.documents import api, commands
from tests.documents.rows import REFERENCE

MARK = "<!-- Written by `python -m tests.documents.written`, from here to the end. -->\n"
PAGES: dict[Path, Callable[[], str]] = {REFERENCE / "commands.md": commands.page, REFERENCE / "python.md": api.page}


def wanted(page: Path) -> str:
    """The page as it should be: the part above the mark as it is."""
    return page.read_text().partition(MARK)[0] + MARK + PAGES[page]()


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(wanted(page))
