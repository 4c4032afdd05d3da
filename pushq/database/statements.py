"""The texts of sql/*.sql. Needs no driver: producers say theirs on a connection of their own."""

from __future__ import annotations

from pathlib import Path

# Read at once: when one is needed there may be no file to be had, or a newer program may have been installed.
_STATEMENTS = {file.stem: file.read_text(encoding="utf-8") for file in (Path(__file__).parent / "sql").glob("*.sql")}


def statement(name: str) -> str:
    """The text of sql/NAME.sql."""
    return _STATEMENTS[name]
