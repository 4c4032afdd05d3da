"""Handlers' exceptions and results as text and JSON that PostgreSQL takes.

The classes of exceptions and results are the user's, and may do anything when looked at: `__str__` may call
`sys.exit()`, a metaclass may raise for `__qualname__`, a generator may never end. Only this module looks at such
values, so that an error ends here, or as a ResultError. Anywhere else the error would end the pool.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

from pydantic_core import PydanticSerializationError, to_jsonable_python

from pushq.errors import ResultError

T = TypeVar("T")

LONGEST_ERROR = 10_000
"""Characters of an error's text."""
LONGEST_NAME = 200
"""Characters of an exception's name."""
LARGEST_RESULT = 1024 * 1024
"""Bytes of a result's JSON."""
MOST_LEAVES = 20
"""Exceptions described of a group."""


def guarded(look: Callable[[], T], otherwise: Callable[[BaseException], T]) -> T:
    """Calls the user's code. For any exception, SystemExit included, returns otherwise(exception)."""
    try:
        return look()
    except BaseException as broken:  # noqa: BLE001 - one place for every look at the user's values
        return otherwise(broken)


# Text -----------------------------------------------------------------------------------------------------------------

_CUT = "… (cut)"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable_text(text: str, longest: int = LONGEST_ERROR) -> str:
    """Text that PostgreSQL takes: without NUL and lone surrogates. longest: in characters."""
    if len(text) > longest:
        text = text[: longest - len(_CUT)] + _CUT
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def text_of(value: object) -> str:
    """str(value), or a remark if str() raises. A plain str, not yet storable."""
    return guarded(
        lambda: str.__str__(str(value)),  # __str__ may return a subclass of str
        lambda broken: f"(its message cannot be shown: {name_of(broken)})",
    )


def name_of(error: object) -> str:
    """The class of an exception as MODULE.NAME; for Python's own and pushq's, as NAME."""
    kind = type(error)
    module, name = guarded(
        lambda: (str.__str__(kind.__module__), str.__str__(kind.__qualname__)), lambda _: ("builtins", "Exception")
    )
    return name if module in ("builtins", "pushq.errors") else f"{module}.{name}"


def short_name_of(value: object) -> str:
    """The name of an object's class, without modules. Storable."""
    return storable_text(name_of(value).rpartition(".")[2], LONGEST_NAME)


def describe_error(error: BaseException, longest: int = LONGEST_ERROR) -> str:
    """The type and message of an exception; for a group also the first line of each exception inside. Storable."""
    lines = [_line(error)]
    if isinstance(error, BaseExceptionGroup):
        lines += ["  " + _line(leaf).partition("\n")[0] for leaf in islice(leaves_of(error), MOST_LEAVES)]
    return storable_text("\n".join(lines), longest)


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group and its inner groups, without recursion, however deep."""
    waiting = [error]
    while waiting:
        next_one = waiting.pop()
        if isinstance(next_one, BaseExceptionGroup):
            waiting += reversed(vars(BaseExceptionGroup)["exceptions"].__get__(next_one))
        else:
            yield next_one


def _line(error: BaseException) -> str:
    """The type and message, without the DETAIL of a database error, which shows rows: "Failing row contains (…)"."""
    message = text_of(error).partition("\nDETAIL:")[0]
    return f"{name_of(error)}: {message}" if message else name_of(error)


# JSON -----------------------------------------------------------------------------------------------------------------


def storable_result(value: object) -> str | None:
    """A handler's return value as JSON text for jsonb; None for None.

    Takes JSON's own types and types with an obvious form in JSON: dataclasses, pydantic models, datetimes, UUIDs,
    enums, decimals (as text, to the last digit). Raises ResultError for values that cannot be stored: NaN, text with
    NUL or a lone surrogate, cycles, other objects, more than 1 MiB.
    """
    if value is None:
        return None
    try:
        text = json_text(value)
        size = len(text.encode())
        if size > LARGEST_RESULT:
            raise ValueError(f"{size:,} bytes is over 1 MiB")
    except BaseException as error:  # the value's own methods may raise anything
        raise ResultError(f"the work is done, but its result cannot be stored: {_line(error)}") from error
    return text


def json_text(value: object) -> str:
    """JSON text that jsonb takes.

    Raises ValueError, TypeError, RecursionError, or any exception of the value's code.
    """
    text = _encoder.encode(value)
    text.encode()  # refuses lone surrogates
    refuse_nul(text)
    return text


# \u0000 after an even number of backslashes is an escaped NUL; after an odd number, plain text.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def refuse_nul(text: str) -> None:
    """Raises ValueError for JSON text with a NUL, which jsonb does not take."""
    if "\\u0000" in text and _ESCAPED_NUL.search(text):  # `in` first: ten times as fast as the pattern
        raise ValueError("text with a NUL character")


def refuse_unstorable(text: str) -> None:
    """Raises ValueError for JSON text in ASCII with what jsonb does not take: a NUL, or half of a surrogate pair."""
    refuse_nul(text)
    if "\\ud" in text and any(found[1] for found in _SURROGATES.finditer(text)):
        raise ValueError("text with a lone surrogate")


_HIGH, _LOW = r"\\ud[89ab][0-9a-f]{2}", r"\\ud[c-f][0-9a-f]{2}"
_SURROGATES = re.compile(rf"\\\\|{_HIGH}{_LOW}|({_HIGH}|{_LOW})")
"""An escaped backslash, a pair, or the half of one."""


def _jsonable(value: object) -> Any:
    """Converts a value that json does not know, one level deep. json encodes the result, and refuses NaN inside."""
    if inspect.isgenerator(value):  # a generator may never end
        raise TypeError("generator is not JSON")
    try:
        return to_jsonable_python(value, inf_nan_mode="constants")
    except PydanticSerializationError:
        raise TypeError(f"{type(value).__name__} is not JSON") from None


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_jsonable)
"""Made once, because json.dumps makes an encoder for each call with options."""
