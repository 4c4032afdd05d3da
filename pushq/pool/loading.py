"""Finds the user's registry of tasks. Only here does a name become code, and the name is from the command line."""

from __future__ import annotations

import difflib
import importlib
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

from pushq.errors import PushqError, TasksError, TasksRaised
from pushq.place import refuse_misnamed
from pushq.task import Tasks
from pushq.trace import places

MOST_PLACES = 5


def load_tasks(place: str) -> Tasks:
    """Returns the Tasks at MODULE:TASKS. The current directory is the last on the import path.

    Raises TasksError, or TasksRaised if the module raises: the next start may succeed.
    """
    refuse_misnamed(place)
    module_name, _, attribute = place.partition(":")
    _put_current_directory_last()
    found = _import(module_name)
    for step in attribute.split("."):
        if not hasattr(found, step):
            registries = [name for name, value in getattr(found, "__dict__", {}).items() if isinstance(value, Tasks)]
            close = difflib.get_close_matches(step, registries, n=1) or registries[:1]
            hint = f"did you mean '{module_name}:{close[0]}'?" if close else "define `tasks = Tasks()` there."
            raise TasksError(f"Module {module_name!r}{_from_elsewhere(found)} has no {step!r}; {hint}")
        found = getattr(found, step)
    if not isinstance(found, Tasks):
        raise TasksError(
            f"{place!r} is no registry of tasks but of type {type(found).__name__}; name a pushq.Tasks object."
        )
    if not len(found):
        raise TasksError(f"{place!r} has no tasks; put @tasks.register(NAME) above a function, and import it there.")
    if misfit := found.misfit():
        raise misfit
    return found


def _from_elsewhere(found: object) -> str:
    """Names the file of a module that is not from the current directory: the user may have meant another."""
    file, here = getattr(found, "__file__", None), _current_directory()
    return f", which is {file}," if file and here and Path(here) not in Path(file).parents else ""


def _put_current_directory_last() -> None:
    """After the installed packages, so that files of the directory shadow no package."""
    here = _current_directory()
    if here and here not in sys.path:
        sys.path.append(here)


def _current_directory() -> str | None:
    """None: the directory has been removed, as when a release replaces the last."""
    try:
        return str(Path.cwd())
    except OSError:
        return None


def _import(module_name: str) -> object:
    try:
        return _namesake(module_name) or importlib.import_module(module_name)
    except TasksError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise _not_found(error.name) from None
        raise TasksError(_failed(module_name, error)) from None
    except (ImportError, SyntaxError) as error:
        raise TasksError(_failed(module_name, error)) from None
    except BaseException as error:  # noqa: BLE001 - a module may do anything, also sys.exit()
        raise TasksRaised(_failed(module_name, error)) from None


def _namesake(module_name: str) -> ModuleType | None:
    """Imports a file of the current directory that has the name of a Python module, such as `gc.py`.

    On the command line, the name means the file. In every import, the name stays Python's.
    """
    here = _current_directory()
    spec = PathFinder.find_spec(module_name, [here]) if here and module_name in sys.stdlib_module_names else None
    if spec is None or spec.loader is None:
        return None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _not_found(name: str) -> PushqError:
    here = _current_directory()
    if here is None:
        return TasksRaised(
            f"There is no module {name!r} among the installed packages, and the current directory has been removed; "
            "start pushq again where your code is."
        )
    return TasksError(
        f"There is no module {name!r} in {here} or among the installed packages; name it as in an import."
    )


def _failed(module_name: str, error: BaseException) -> str:
    said = f"Module {module_name!r} fails to import: {_told(error)}"
    while cause := error.__cause__:
        said, error = f"{said}; caused by {_told(cause)}", cause
    return f"{said}."


def _told(error: BaseException) -> str:
    """An error, its place in the user's code, and the callers of that place."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    line = message.splitlines()[0].rstrip(".") if message else ""
    innermost, *outer = places(error) or [""]
    way = f", by way of {', '.join(outer[:MOST_PLACES])}" if outer else ""
    return f"{type(error).__name__}: {line}" + (f", at {innermost}{way}" if innermost else "")
