"""The public Python API as Markdown: signatures and docstrings, as `inspect` finds them."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import pairwise
from types import FunctionType
from typing import Any

from pushq import errors
from pushq.testing import plugin

WIDTH = 120
MODULES = {
    "pushq": import_module("pushq").__all__,
    "pushq.backoff": ["exponential"],
    "pushq.testing": import_module("pushq.testing").__all__,
    "pushq.contrib.django": import_module("pushq.contrib.django").__all__,
    "pushq.contrib.otel": import_module("pushq.contrib.otel").__all__,
}
FIXTURES = sorted(name for name in vars(plugin) if name.startswith("pushq_"))

WITHOUT_CONSTRUCTOR = {"Task", "Job", "FoundJob"}
"""Classes that pushq alone makes. Their docstrings give the fields."""
INTERNAL = {"find", "misfit", "lifespan_of_app", "middleware_of_app", "pairs", "fence", "arguments", "check"}
"""Methods without an underscore that serve pushq alone. They may change."""

ERRORS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.PushqError)
}
OTHERS = """
None AssertionError TimeoutError TypeError ValueError CheckViolationError UniqueViolationError InvalidTask
InvalidTaskBackend TaskResultDoesNotExist
""".split()
_CODE = re.compile(rf"\b({'|'.join([*ERRORS, *MODULES['pushq'], *OTHERS])})\b")


def page() -> str:
    parts = [line for module, names in MODULES.items() for line in _module(module, names)]
    return "\n".join(["", *parts, *_fixtures(), *_errors()])


def _module(module: str, names: Iterable[str]) -> Iterator[str]:
    yield from (f"## {module}", "")
    for name in sorted(names, key=str.lower):
        yield from _thing(module, name, getattr(import_module(module), name))


def _thing(module: str, name: str, thing: Any) -> Iterator[str]:
    yield from (f"### {name}", "")
    if inspect.isclass(thing):
        yield from _class(name, thing)
    elif callable(thing) and isinstance(thing, FunctionType):
        yield from _function(name, thing)
    else:
        yield from _prose(_doc_of_value(module, name))


def _class(name: str, kind: type) -> Iterator[str]:
    if name in WITHOUT_CONSTRUCTOR:
        yield from _code(f"class {name}")
    else:
        yield from _code(_signature(f"class {name}", inspect.signature(kind).parameters.values()))
    yield from _prose(kind.__doc__, inspect.signature(kind).parameters)
    for member, value in public(kind):
        yield from (f"#### {name}.{member}", "")
        if isinstance(value, property):
            yield from _code(f"{member}: {value.fget.__annotations__['return']}")
            yield from _prose(value.__doc__)
        else:
            yield from _function(member, value, is_method=True)


def public(kind: type) -> Iterator[tuple[str, Any]]:
    """The methods and properties that a user may call, in the order of the class."""
    for name, value in vars(kind).items():
        if not name.startswith("_") and name not in INTERNAL and isinstance(value, FunctionType | property):
            yield name, value


def _function(name: str, function: Callable[..., Any], *, is_method: bool = False) -> Iterator[str]:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[is_method:]
    begin = "async def " if inspect.iscoroutinefunction(function) else "def "
    yield from _code(_signature(begin + name, parameters, f" -> {signature.return_annotation}"))
    yield from _prose(function.__doc__, signature.parameters)


class _Plain(str):
    """An annotation or a default, shown as it is written."""

    __slots__ = ()
    __repr__ = str.__str__


def _signature(name: str, parameters: Iterable[inspect.Parameter], returns: str = "") -> str:
    shown = [
        parameter.replace(
            annotation=_Plain(parameter.annotation) if parameter.annotation is not parameter.empty else parameter.empty,
            default=_Plain(_default(parameter.default))
            if parameter.default is not parameter.empty
            else parameter.empty,
        )
        for parameter in parameters
        if parameter.annotation != "Never"
    ]
    line = f"{name}{inspect.Signature(shown)}{returns}"
    if len(line) <= 100:
        return line
    pieces = [f"    {piece},\n" for piece in _pieces(inspect.Signature(shown))]
    return f"{name}(\n{''.join(pieces)}){returns}"


def _pieces(signature: inspect.Signature) -> Iterator[str]:
    """The parameters, and `*` before those that are given by name."""
    had_star = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not had_star:
            had_star = True
            yield "*"
        yield str(parameter)


def _default(value: object) -> str:
    """Objects without a text that Python reads are shown as …"""
    text = repr(value)
    return "…" if text.startswith("<") else text.replace("datetime.", "")


def _code(text: str) -> Iterator[str]:
    yield from ("```python", text, "```", "")


def _prose(doc: str | None, parameters: Iterable[str] = ()) -> Iterator[str]:
    """The paragraphs of a docstring. What is said of each parameter, `name: …`, becomes an item of a list."""
    for paragraph in inspect.cleandoc(doc or "").split("\n\n"):
        text = " ".join(paragraph.split())
        for name in parameters:
            text = re.sub(rf"(^|\. )({name}): ", r"\1\n- `\2`: ", text)
        text = re.sub(r"(?<=\.) (Returns|Raises) ", r"\n\n\1 ", text)
        blocks = re.sub(r"\.\s+\n- `", ".\n- `", text).strip().split("\n")
        yield from _filled(blocks)
        yield ""


def _filled(lines: Iterable[str]) -> Iterator[str]:
    was_item = False
    for number, line in enumerate(lines):
        is_item = line.startswith("- ")
        if number and is_item and not was_item:
            yield ""
        yield textwrap.fill(_marked(line), WIDTH, subsequent_indent="  " * is_item)
        was_item = is_item


def _marked(text: str) -> str:
    """Names as code, unless they are code already."""
    parts = text.split("`")
    return "`".join(part if number % 2 else _CODE.sub(r"`\1`", part) for number, part in enumerate(parts))


def _doc_of_value(module: str, name: str) -> str:
    """The string below the assignment of a value."""
    home = import_module(module)._HOMES[name]
    body = ast.parse(inspect.getsource(import_module(f"{module}.{home}"))).body
    for one, following in pairwise(body):
        if isinstance(one, ast.AnnAssign) and ast.unparse(one.target) == name and isinstance(following, ast.Expr):
            return str(ast.literal_eval(following.value))
    raise AssertionError(f"{name} has no docstring")


def _fixtures() -> Iterator[str]:
    yield from ("## Fixtures of pytest", "")
    for name in FIXTURES:
        function = inspect.unwrap(getattr(plugin, name))
        kind = re.sub(r"Iterator\[(\w+)\]", r"\1", function.__annotations__["return"])
        yield from (f"### {name}", "", *_code(f"{name}: {kind}"), *_prose(function.__doc__))


def _errors() -> Iterator[str]:
    yield from ("## pushq.errors", "", "| error | base | raised when |", "|---|---|---|")
    for name, kind in ERRORS.items():
        about = " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split())
        yield f"| `{name}` | `{kind.__mro__[1].__name__}` | {about} |"
    yield ""
