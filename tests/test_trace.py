"""Where an exception came from, as it is kept with its job and told in the log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pushq import Tasks
from pushq.errors import PayloadError
from pushq.trace import LONGEST, Trace, trace

HERE = str(Path(__file__).relative_to(Path.cwd()))


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Secretive(Exception):
    """Its traceback cannot be inspected."""

    @property
    def __traceback__(self) -> None:  # type: ignore[override]
        raise KeyError


def raised(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - it is what the test looks at
        return error
    raise AssertionError("it raised nothing")


def traced(function: Callable[[], object]) -> Trace:
    found = trace(raised(function))
    assert found
    return found


def line_of(function: Callable[[], object]) -> int:
    return function.__code__.co_firstlineno + 1


def look_up() -> object:
    return {}["missing_key"]  # type: ignore[index]


def read() -> object:
    return json.loads("{")


def fail_while_failing() -> object:
    try:
        return look_up()
    except KeyError as error:
        raise ValueError("no such thing") from error


def recurse() -> object:
    return recurse()


def speak() -> object:
    raise Unspeakable


def quote() -> object:
    raise ValueError("x\n" * 100_000 + "the end")


def show_a_row() -> object:
    raise ValueError(f"duplicate key\nDETAIL:  Key (card)=({41 * 100 + 11}) already exists.")


def test_a_traceback_ends_where_the_error_was_raised() -> None:
    found = traced(look_up)

    assert found.place == f"{HERE}:{line_of(look_up)}"
    assert found.text.startswith("Traceback (most recent call last):\n")
    assert found.text.endswith("KeyError: 'missing_key'\n")
    assert '{}["missing_key"]' in found.text


def test_the_place_is_in_the_user_s_code_though_a_library_raised_it() -> None:
    found = traced(read)

    assert found.place == f"{HERE}:{line_of(read)}"
    assert "json/decoder.py" in found.text


def test_what_it_came_from_is_told_too() -> None:
    text = traced(fail_while_failing).text

    assert text.index("KeyError: 'missing_key'") < text.index("ValueError: no such thing")


def test_only_the_last_16_kib_are_kept() -> None:
    text = traced(quote).text

    assert len(text.encode()) <= LONGEST
    assert text.startswith("… (cut)\n")
    assert text.endswith("the end\n")


def test_endless_recursion_makes_no_endless_traceback() -> None:
    assert len(traced(recurse).text.splitlines()) < 200


def test_what_a_database_adds_about_rows_is_left_out() -> None:
    assert "4111" not in traced(show_a_row).text


def test_an_error_that_cannot_be_shown_still_has_its_place() -> None:
    assert traced(speak).place == f"{HERE}:{line_of(speak)}"


@pytest.mark.parametrize("error", [ValueError("never raised"), Secretive()], ids=["never raised", "secretive"])
def test_an_error_without_a_traceback_has_no_trace(error: BaseException) -> None:
    assert trace(error) is None


def test_the_place_is_no_file_of_a_compiled_library() -> None:
    """Whose frames have the path of where the library was built."""
    code = compile("def fail():\n    raise ValueError", "asyncpg/protocol/protocol.pyx", "exec")
    there: dict[str, Any] = {}
    exec(code, there)

    def call() -> None:
        there["fail"]()

    try:
        call()
    except ValueError as error:
        found = trace(error)
    assert found
    assert found.place.startswith("tests/test_trace.py:")


def test_what_fails_in_pushq_s_own_files_alone_has_no_place() -> None:
    @Tasks().register("it")
    async def it(n: int) -> None: ...

    with pytest.raises(PayloadError) as refused:
        it.arguments("{}")
    frames = refused.value.__traceback__
    assert frames
    assert trace(refused.value.with_traceback(frames.tb_next)) is None
