"""What jobs need: names, with units of each.                                                             (pure)"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

Needs: TypeAlias = Mapping[str, int] | Collection[str]
"""Names with units, `{"gpu": 2}`; or names alone, `["gpu"]`, for one unit each."""

MOST_NAMES = 16
MOST_UNITS = 1_000_000
LONGEST_NAME = 200
OF_PUSHQ = ("key:", "affinity:", "tenant:", "task:", "queue:")
"""How the names begin that pushq adds."""


def units_of(needs: object) -> dict[str, int] | None:
    """The units of each name, None for no name. Raises TypeError and ValueError, which begin with the word needs.

    What PostgreSQL refuses by a constraint is not refused here.
    """
    if isinstance(needs, Mapping):
        units = dict(needs)
    elif isinstance(needs, Collection) and not isinstance(needs, str | bytes | bytearray | memoryview):
        units = _one_of_each(needs)
    else:
        raise TypeError(f"needs are names with units, {{'gpu': 2}}, or names, ['gpu'], not {needs!r}.")
    for name, number in units.items():
        _refuse_no_name(name)
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"needs have whole units, {{{name!r}: 1}}, not {number!r} of {name!r}.")
    return units or None


def _one_of_each(names: Collection[object]) -> dict[object, int]:
    units: dict[object, int] = {}
    for name in names:
        _refuse_no_name(name)
        if name in units:
            raise ValueError(f"needs name {name!r} twice; for two units, write {{{name!r}: 2}}.")
        units[name] = 1
    return units


def _refuse_no_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"needs have names of type str, 'gpu', not {name!r}.")


def refuse_broken(units: Mapping[str, int]) -> None:
    """Raises ValueError for what PostgreSQL would refuse by a constraint."""
    if len(units) > MOST_NAMES:
        raise ValueError(f"needs are at most {MOST_NAMES} names, not {len(units)}; let one name stand for several.")
    for name, number in units.items():
        if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
            raise ValueError(f"needs have names of 1 to {LONGEST_NAME} printable characters, not {name!r}.")
        if name.startswith(OF_PUSHQ):
            raise ValueError(f"needs have no names with a prefix of pushq's, {', '.join(OF_PUSHQ)}, as {name!r} has.")
        if not 1 <= number <= MOST_UNITS:
            raise ValueError(f"needs have 1 to {MOST_UNITS:,} units of a name, not {number!r} of {name!r}.")
