"""Finds the user's registry of tasks: the only place where a name becomes code, and it comes from the command line."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from pathlib import Path

from pushq.errors import TasksError
from pushq.task import Tasks


def load_tasks(place: str) -> Tasks:
    """The Tasks at MODULE:TASKS, the current directory being on the import path. Raises TasksError in a sentence."""
    module_name, colon, attribute = place.partition(":")
    if not (module_name and colon and attribute):
        raise TasksError(
            f"{place!r} does not name a registry of tasks; write MODULE:TASKS, for example 'app.jobs:tasks'."
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found = _import(module_name)
    for step in attribute.split("."):
        if not hasattr(found, step):
            registries = [name for name, value in getattr(found, "__dict__", {}).items() if isinstance(value, Tasks)]
            close = difflib.get_close_matches(step, registries, n=1) or registries[:1]
            hint = f"did you mean '{module_name}:{close[0]}'?" if close else "define `tasks = Tasks()` there."
            raise TasksError(f"Module {module_name!r} has no {step!r}; {hint}")
        found = getattr(found, step)
    if not isinstance(found, Tasks):
        raise TasksError(
            f"{place!r} is no registry of tasks but of type {type(found).__name__}; name a pushq.Tasks object."
        )
    if not len(found):
        raise TasksError(f"{place!r} has no tasks; put @tasks.register(NAME) above a function, and import it there.")
    return found


def _import(module_name: str) -> object:
    try:
        return importlib.import_module(module_name)
    except TasksError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise TasksError(
                f"There is no module {error.name!r} in {Path.cwd()} or among the installed packages; "
                "name it as in an import."
            ) from None
        raise TasksError(_failed(module_name, error)) from None
    except BaseException as error:  # noqa: BLE001 - a module may do anything, also sys.exit()
        raise TasksError(_failed(module_name, error)) from None


def _failed(module_name: str, error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f", at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    message = str(error).splitlines()[0] if str(error) else ""
    return f"Module {module_name!r} fails to import: {type(error).__name__}: {message}{where}."
