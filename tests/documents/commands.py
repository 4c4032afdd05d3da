"""The commands as Markdown: usage, description, examples and options of each, as click knows them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from inspect import cleandoc

import click

from pushq.cli import cli

ORDER = (
    "migrate supervise enqueue jobs artifacts queues limits schedules events supervisors webhooks doctor sweep "
    "exporter demo bench"
).split()
WIDTH = 120


def page() -> str:
    return "".join(_section(*command) for command in commands())


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, and the commands of groups after their group."""
    top = click.Context(cli, info_name="pushq")
    assert sorted(ORDER) == cli.list_commands(top)
    for name in ORDER:
        command = cli.get_command(top, name)
        assert command
        yield f"pushq {name}", command
        if isinstance(command, click.Group):
            yield from ((f"pushq {name} {inner}", command.commands[inner]) for inner in sorted(command.commands))


def _section(name: str, command: click.Command) -> str:
    return "\n".join(["", f"## {name}", "", *_usage(name, command), *_about(command), *_options(command)])


def _usage(name: str, command: click.Command) -> list[str]:
    return ["```", " ".join([name, *command.collect_usage_pieces(click.Context(command))]), "```", ""]


def _about(command: click.Command) -> Iterator[str]:
    """The paragraphs of the help. A paragraph under \\b holds examples."""
    for paragraph in cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            yield from ("```console", *(f"$ {line.strip()}" for line in paragraph.splitlines()[1:]), "```", "")
        else:
            yield textwrap.fill(" ".join(paragraph.split()), WIDTH) + "\n"


def _options(command: click.Command) -> Iterator[str]:
    options = [option for option in command.params if isinstance(option, click.Option)]
    if options:
        yield "| option | default | meaning |"
        yield "|---|---|---|"
        yield from map(_row, options)
        yield ""


def _row(option: click.Option) -> str:
    """A row. The help of a setting, or of the benchmark, ends with its default in brackets."""
    text, _, remark = (option.help or "").partition("  [")
    variable = re.search(r"PUSHQ_\w+", remark)
    told = re.sub(r"PUSHQ_\w+[^;]*; |default |repeatable|\]", "", remark)
    default = f"`{told}`" if re.fullmatch(r"[\w.]+", told) else told or _default(option)
    meaning = [text, _values(option), "Repeatable." * option.multiple, f"`{variable[0]}`." if variable else ""]
    cells = [f"`{option.opts[0]}{_metavar(option)}`", default, " ".join(filter(None, meaning))]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(option: click.Option) -> str:
    if option.is_flag:
        return "off"
    return f"`{option.default}`" if isinstance(option.default, str | int | float) else "none"


def _metavar(option: click.Option) -> str:
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Choice):
        return " " + (option.metavar or str(option.name).upper())
    return " " + (option.metavar or option.type.name.split()[0].upper()).replace("INTEGER", "N").replace("FLOAT", "X")


def _values(option: click.Option) -> str:
    match option.type:
        case click.Choice(choices=choices):
            return f"One of {', '.join(f'`{choice}`' for choice in choices)}."
        case click.IntRange() | click.FloatRange() as bounds:
            least = "Above {:,}, at most" if bounds.min_open else "From {:,} to"
            return f"{least.format(bounds.min)} {bounds.max:,.12g}."
        case _:
            return ""
