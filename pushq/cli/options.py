"""Flags for settings, each made from the setting's own name and description."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pushq.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])


def settings_options(*names: str) -> Callable[[Command], Command]:
    """Adds a flag a setting. Values go to Settings.load as they are, which alone judges them."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            command = _option(name)(command)
        return command

    return decorate


def _option(name: str) -> Callable[[Command], Command]:
    field = Settings.model_fields[name]
    about = f"{field.description or name}  [PUSHQ_{name.upper()}"
    if name == "queues":
        return click.option("--queue", "queues", multiple=True, metavar="NAME", help=f"{about}; repeatable]")
    default = (
        f"; default {field.default:g}]" if isinstance(field.default, int | float) else f"; default {field.default}]"
    )
    return click.option(f"--{name.replace('_', '-')}", metavar="VALUE", help=about + default)


LOGGING = ("log_format", "log_level")
HTTP = ("http_host", "http_port")
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with stable keys.")
