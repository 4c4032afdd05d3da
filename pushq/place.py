"""How a registry of tasks is named on the command line: MODULE:TASKS."""

from __future__ import annotations

from pathlib import Path, PurePath

from pushq.errors import TasksError


def refuse_misnamed(place: str) -> None:
    """Raises TasksError for a place that is not written MODULE:TASKS, or names a file. Imports nothing."""
    named, colon, attribute = place.partition(":")
    is_file = "/" in named or (named.endswith(".py") and Path(named).is_file())
    if is_file or not (named and colon and attribute):
        what = "names a file, not a module" if is_file else "does not name a registry of tasks"
        meant = f"{_as_in_an_import(named) or 'app.jobs'}:{attribute or 'tasks'}"
        raise TasksError(f"{place!r} {what}; write MODULE:TASKS, for example {meant!r}.")


def _as_in_an_import(named: str) -> str:
    file = PurePath(named.removesuffix(".py"))
    return file.name if file.is_absolute() else ".".join(part for part in file.parts if part != "..")
