"""The pages of the reference that the program writes are what the program says now."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import click
import pytest

from pushq.cli import cli
from tests.documents.api import MODULES, public
from tests.documents.commands import commands
from tests.documents.rows import REFERENCE
from tests.documents.written import PAGES, wanted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_is_what_the_program_says(page: Path) -> None:
    assert page.read_text() == wanted(page), "run: .venv/bin/python -m tests.documents.written"


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda part: part if isinstance(part, str) else "")
def test_each_command_has_an_example_and_each_option_a_help(name: str, command: click.Command) -> None:
    assert command.help
    assert f" {name}" in command.help.partition("\b")[2]
    for option in command.params:
        assert not isinstance(option, click.Option) or option.help, option.name


def test_the_table_on_top_leads_to_each_command() -> None:
    table = (REFERENCE / "commands.md").read_text().partition("## ")[0]
    names = [name for name, _ in commands()]
    assert [name for name in names if f"](#{name.replace(' ', '-')})" not in table] == []


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda part: part if isinstance(part, str) else "")
def test_the_page_says_from_where_on_the_program_takes_a_number(name: str, command: click.Command) -> None:
    section = re.split(r"^## ", (REFERENCE / "commands.md").read_text(), flags=re.MULTILINE)
    (page,) = (part for part in section if part.startswith(f"{name}\n"))
    for option in command.params:
        if isinstance(option.type, click.IntRange | click.FloatRange):
            (row,) = (line for line in page.splitlines() if line.startswith(f"| `{option.opts[0]} "))
            takes_the_least = _takes(option, option.type.min)
            assert (f"From {option.type.min:,} to" in row, f"Above {option.type.min:,}," in row) == (
                takes_the_least,
                not takes_the_least,
            )


def _takes(option: click.Parameter, value: float | None) -> bool:
    try:
        option.type.convert(str(value), option, None)
    except click.BadParameter:
        return False
    return True


def test_the_program_takes_the_examples_of_the_page() -> None:
    """Command, options and values. The examples' ids are short, and are filled up here."""
    text = (REFERENCE / "commands.md").read_text().replace("-…", "-0000-7000-8000-000000000000")
    examples = re.findall(r"^\$ (?:[A-Z_]+=\S+ )?pushq ?([^|#\n]*)", text, re.MULTILINE)
    assert len(examples) > 30
    for example in examples:
        context, words = click.Context(cli, info_name="pushq"), shlex.split(example)
        while isinstance(context.command, click.Group):
            if context.command.name in ("jobs", "queues", "limits", "schedules") and (
                not words or words[0].startswith("-")
            ):
                words.insert(0, "list")
            command = context.command.get_command(context, words.pop(0))
            assert command, example
            context = click.Context(command, parent=context)
        context.command.parse_args(context, words)


def test_every_public_class_method_and_function_has_a_docstring() -> None:
    for module, names in MODULES.items():
        for name in names:
            thing = getattr(import_module(module), name)
            if isinstance(thing, type):
                assert all(member.__doc__ for _, member in public(thing)), name
            assert not callable(thing) or thing.__doc__, name
