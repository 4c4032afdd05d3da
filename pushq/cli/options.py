"""The settings of a command, and their flags, made from each setting's name, type and description."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from pushq.database.url import left_out
from pushq.settings import Settings


def load_settings(**flags: Any) -> Settings:
    """The settings of a command. Names, once, parameters of the database URLs that are left out."""
    settings = Settings.load(**flags)
    if names := sorted({*left_out(settings.url), *left_out(settings.listen_url)}):
        click.echo(
            f"pushq: left out of the database URL, since unknown to asyncpg: {', '.join(names)}. "
            "Settings of the server go into options=-c%20NAME%3DVALUE.",
            err=True,
        )
    return settings


Command = TypeVar("Command", bound=Callable[..., Any])


def settings_options(*names: str) -> Callable[[Command], Command]:
    """Adds a flag for each setting. Flags keep values as they are, for Settings.load to judge."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            command = _option(name)(command)
        return command

    return decorate


def _option(name: str) -> Callable[[Command], Command]:
    field = Settings.model_fields[name]
    about = f"{field.description}  [PUSHQ_{name.upper()}"
    if name == "queues":
        return click.option(
            "--queue", "queues", multiple=True, metavar="NAME", help=f"{about}, separated by commas; repeatable]"
        )
    default = (
        f"{field.default:g}" if isinstance(field.default, float) else "none" if field.default is None else field.default
    )
    return click.option(f"--{name.replace('_', '-')}", metavar=_metavar(field), help=f"{about}; default {default}]")


def _metavar(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "|".join(get_args(field.annotation))
    if field.annotation is float:
        return "SECONDS"
    return "N" if field.annotation is int else "VALUE"


class WholeNumber(click.IntRange):
    name = "whole number"


class Seconds(click.FloatRange):
    name = "number of seconds"


LOGGING = ("log_format", "log_level", "log_errors")
HTTP = ("http_host", "http_port")
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with stable keys.")


class ListsByItself(click.Group):
    """A group of commands that runs `list`, with its options, unless the arguments name a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_named = args and (not args[0].startswith("-") or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if is_named else ["list", *args])
