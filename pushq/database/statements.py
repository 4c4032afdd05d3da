"""The texts of statements. Needs no driver, since producers run statements on connections of their own."""

from __future__ import annotations

from pathlib import Path

# Read at import. Later the process may have no file left to open, or a newer version may have been installed.
_STATEMENTS = {file.stem: file.read_text(encoding="utf-8") for file in Path(__file__).parents[1].glob("*/sql/*.sql")}


def statement(name: str) -> str:
    """The text of NAME.sql, in the folder sql/ of the room that runs the statement. Names are unique across rooms."""
    return _STATEMENTS[name]
