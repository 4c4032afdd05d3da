"""Finds the tasks of a Django project among its modules. A row names a task, and never makes a module be imported."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from django.utils.module_loading import autodiscover_modules

from pushq.contrib.django.api import Task


def every_task() -> dict[str, Any]:
    """The tasks by their dotted paths: those of the modules `tasks` of all apps, and of all that is imported."""
    autodiscover_modules("tasks")
    modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    values = [value for module in modules for value in list(vars(module).values())]
    # isinstance() would wake lazy objects, such as the site of Django's admin.
    return {value.module_path: value for value in values if issubclass(type(value), Task)}


def find_task(path: str) -> Any | None:
    """The task with this dotted path."""
    module, _, name = path.rpartition(".")
    found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    if isinstance(found, Task) and found.module_path == path:
        return found
    return every_task().get(path)
