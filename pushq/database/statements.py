"""The texts of statements. Needs no driver: producers say theirs on a connection of their own."""

from __future__ import annotations

from pathlib import Path

# Read at once: when one is needed there may be no file to be had, or a newer program may have been installed.
_STATEMENTS = {file.stem: file.read_text(encoding="utf-8") for file in Path(__file__).parents[1].glob("*/sql/*.sql")}


def statement(name: str) -> str:
    """The text of NAME.sql, in the folder sql/ of the room that says the statement. No two have the same name."""
    return _STATEMENTS[name]
