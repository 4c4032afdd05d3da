"""Whether arguments come back unchanged from JSON. Checked where a job is made, so that the producer can fix the call.

For most types, the answer is known beforehand, from pydantic's schema. For other types, the answer depends on the
value: Task.job then reads the payload back, and compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json

Check = Callable[[Any], bool]
"""Whether a value is sure to come back unchanged. None in place of a check: every value of the type is."""

Schema = Mapping[str, Any]
Definitions = Mapping[str, Schema]


def doubts(model: type[BaseModel]) -> dict[str, Check]:
    """A check for each field of a payload's model whose type leaves doubt."""
    root: Schema = model.__pydantic_core_schema__
    definitions = {one["ref"]: one for one in root.get("definitions", ())}
    fields = (root["schema"] if root["type"] == "definitions" else root)["schema"]["fields"]
    checks = {name: _check(field["schema"], definitions) for name, field in fields.items()}
    return {name: check for name, check in checks.items() if check}


def read(text: bytes) -> dict[str, Any]:
    """A payload, from JSON text. Raises ValueError for text that jsonb cannot hold, or a handler could not receive."""
    try:
        payload: dict[str, Any] = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        reason = unreadable(str(error))
        raise ValueError("NaN and infinity are no JSON" if reason == "expected value" else reason) from None
    return payload


def unreadable(reason: str) -> str:
    """The JSON parser's reason in pushq's words, without line and column."""
    reason = reason.partition(" at line ")[0]
    return _UNREADABLE.get(reason, reason)


_UNREADABLE = {
    "number out of range": "an integer has too many digits",
    "recursion limit exceeded": "it is nested more than 200 levels deep",
}


def alike(one: object, other: object) -> bool:
    """Whether two values are equal, or equal in content where the type has no `==` by content."""
    try:
        if one == other:
            return True
    except Exception:  # noqa: BLE001 - `==` may be the user's code
        return False
    return type(one) is type(other) and _hold_alike(one, other)


def _hold_alike(one: Any, other: Any) -> bool:
    match one:
        case datetime():  # an instant in a repeated hour of autumn never equals an instant of another zone
            return one.tzinfo is not None and bool(one.astimezone(UTC) == other.astimezone(UTC))
        case dict():
            return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
        case list() | tuple():
            return len(one) == len(other) and all(map(alike, one, other))
        case BaseModel():
            return all(alike(getattr(one, part), getattr(other, part)) for part in _PARTS)
    equality: object = type(one).__eq__
    if equality is object.__eq__ or is_dataclass(one):
        state = object.__getstate__(one)
        return state is not None and alike(state, object.__getstate__(other))
    return False


_PARTS = ("__dict__", "__pydantic_extra__", "__pydantic_private__")


def loses(given: object, taken: object) -> bool:
    """Whether a TypedDict, at any depth, was given unknown keys, which are dropped."""
    if given is taken:
        return False
    match given, taken:
        case dict(), dict():
            return len(given) > len(taken) or any(loses(given[key], taken[key]) for key in given.keys() & taken.keys())
        case list() | tuple(), list() | tuple():
            return any(map(loses, given, taken))
    return False


# From schema to check ------------------------------------------------------------------------------------------------


def _check(schema: Schema, definitions: Definitions) -> Check | None:
    """The check for a schema. Kinds of schema that are not listed below are in doubt."""
    if schema.get("serialization") or schema.get("strict"):
        return _is_unsure
    kind: str = schema["type"]
    if kind in _EXACT:
        return None
    return _BY_KIND[kind](schema, definitions) if kind in _BY_KIND else _is_unsure


def _is_unsure(_: object, /) -> bool:
    return False


_EXACT = frozenset("none bool int decimal str bytes uuid date timedelta".split())


def _of_floats(_schema: Schema, _: Definitions) -> Check:
    return math.isfinite  # NaN and infinity would become null


def _of_instants(_schema: Schema, _: Definitions) -> Check:
    return _has_whole_minutes


def _has_whole_minutes(instant: datetime | time) -> bool:
    """Whether the offset of the zone has whole minutes. JSON does not hold an offset's seconds."""
    offset = instant.utcoffset()
    return instant.tzinfo is None if offset is None else not offset % timedelta(minutes=1)


def _of_literal(schema: Schema, _: Definitions) -> Check | None:
    return None if all(type(value) in (str, int, bool, type(None)) for value in schema["expected"]) else _is_unsure


def _of_enum(schema: Schema, _: Definitions) -> Check | None:
    return None if all(type(member.value) in (str, int) for member in schema["members"]) else _is_unsure


def _of_union(schema: Schema, _: Definitions) -> Check | None:
    """In doubt unless every choice is one of JSON's own types: then the type in the JSON decides."""
    is_json = all(choice in ({"type": "int"}, {"type": "bool"}, {"type": "str"}) for choice in schema["choices"])
    return None if is_json else _is_unsure


def _inner(schema: Schema, definitions: Definitions) -> Check | None:
    return _check(schema["schema"], definitions)


def _of_nullable(schema: Schema, definitions: Definitions) -> Check | None:
    if (check := _inner(schema, definitions)) is None:
        return None
    return lambda value: value is None or check(value)


def _of_items(schema: Schema, definitions: Definitions) -> Check | None:
    items = schema.get("items_schema") or {"type": "any"}
    check = _is_unsure if isinstance(items, list) else _check(items, definitions)
    if check is None or check is _is_unsure:
        return check
    return lambda value: all(map(check, value))


def _of_tuple(schema: Schema, definitions: Definitions) -> Check | None:
    checks = [_check(item, definitions) for item in schema["items_schema"]]
    if "variadic_item_index" not in schema:
        return _is_unsure if any(checks) else None
    return _of_items({"items_schema": schema["items_schema"][0]}, definitions) if len(checks) == 1 else _is_unsure


def _of_dict(schema: Schema, definitions: Definitions) -> Check | None:
    if schema.get("keys_schema", {}).get("type") not in ("str", "int"):  # other keys may come back changed
        return _is_unsure
    check = _of_items({"items_schema": schema.get("values_schema")}, definitions)
    if check is None or check is _is_unsure:
        return check
    return lambda value: check(value.values())


_HARMLESS = frozenset(
    """
    allow_inf_nan extra_fields_behavior from_attributes frozen hide_input_in_errors populate_by_name ser_json_inf_nan
    str_strip_whitespace title validate_by_name
    """.split()
)
"""Settings of a model's config that change nothing on the way back."""


def _of_object(schema: Schema, definitions: Definitions) -> Check | None:
    """For a model or a dataclass. An instance of a subclass comes back without the subclass's fields."""
    inner, config = schema["schema"], schema.get("config", {})
    if inner["type"] not in ("model-fields", "dataclass-args") or schema.get("custom_init") or schema.get("root_model"):
        return _is_unsure
    if schema.get("post_init") or config.keys() - _HARMLESS or config.get("extra_fields_behavior") == "allow":
        return _is_unsure
    named = inner["fields"]
    fields = named if isinstance(named, Mapping) else {field["name"]: field for field in named}
    if not all(map(_is_written_as_read, fields.values())):
        return _is_unsure
    checks = {name: _check(field["schema"], definitions) for name, field in fields.items()}
    return _of_class(schema["cls"], {name: check for name, check in checks.items() if check})


def _is_written_as_read(field: Schema) -> bool:
    names = field.get("validation_alias"), field.get("serialization_alias")
    is_hidden = field.get("serialization_exclude") or "serialization_exclude_if" in field
    return names[0] == names[1] and not is_hidden and field.get("init", True) and not field.get("init_only")


def _of_class(cls: type, checks: Mapping[str, Check]) -> Check:
    if _is_unsure in checks.values():
        return _is_unsure
    if not checks:
        return lambda value: type(value) is cls
    return lambda value: type(value) is cls and all(check(getattr(value, name)) for name, check in checks.items())


def _of_definition(schema: Schema, definitions: Definitions) -> Check | None:
    """In doubt for a type that contains itself: a value may be nested more deeply than JSON is read."""
    ref = schema["schema_ref"]
    others = {name: one for name, one in definitions.items() if name != ref}
    return _check(definitions[ref], others) if ref in definitions else _is_unsure


_BY_KIND: Mapping[str, Callable[[Schema, Definitions], Check | None]] = {
    "float": _of_floats,
    "datetime": _of_instants,
    "time": _of_instants,
    "literal": _of_literal,
    "enum": _of_enum,
    "union": _of_union,
    "nullable": _of_nullable,
    "default": _inner,
    "list": _of_items,
    "set": _of_items,
    "frozenset": _of_items,
    "generator": _of_items,
    "tuple": _of_tuple,
    "dict": _of_dict,
    "model": _of_object,
    "dataclass": _of_object,
    "definition-ref": _of_definition,
}
