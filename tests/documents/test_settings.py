"""docs/reference/settings.md names every setting, with its flag, default and bounds."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from pushq.cli.supervise import SUPERVISE
from pushq.settings import TEN_YEARS, Settings
from tests.documents.rows import REFERENCE, rows


def test_the_page_names_every_setting_with_its_flag_default_and_bounds() -> None:
    page = rows(REFERENCE / "settings.md")
    wanted = {f"PUSHQ_{name.upper()}" for name in Settings.model_fields}
    assert wanted == page.keys() - {"PUSHQ_PG_BINDIR", "PUSHQ_TEST_DATABASE_URL"}
    for name, field in Settings.model_fields.items():
        flag, default, values, meaning = page[f"PUSHQ_{name.upper()}"]
        assert flag.removesuffix(", repeatable") == _flag(name), name
        assert default == _default(field) or field.default is None, name
        assert values == _values(field) or not _values(field), name
        assert meaning, name


def _flag(name: str) -> str:
    if name == "queues":
        return "`--queue`"
    return f"`--{name.replace('_', '-')}`" if name in SUPERVISE else "none"


def _default(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return f"`{field.default}`"
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def _values(field: FieldInfo) -> str:
    """Empty for texts, which have rules of their own."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    bounds = {type(bound): bound for bound in field.metadata}
    if field.annotation is int:
        return f"{bounds[Ge].ge:,} to {bounds[Le].le:,}"
    if field.annotation is float:
        assert bounds[Le].le == TEN_YEARS
        return "seconds above 0" if Gt in bounds else "seconds, or 0"
    return ""
