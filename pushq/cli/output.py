"""Rows as columns for people, or as JSON lines for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from pushq.exporter.lines import printable

Row = Mapping[str, Any]
"""Column to value."""


def show_rows(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Prints a listing. Without rows, people get the text `empty`."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(dict(row), default=_plain))  # as ASCII: terminals obey more than ASCII's controls
    elif rows:
        click.echo(table([{column: row[column] for column in columns} for row in rows]))
    else:
        click.echo(empty, err=True)


def show_causes(causes: Sequence[Row], *, as_json: bool, empty: str) -> None:
    """Prints why something waits: a sentence a line, or cause, sentence and detail as JSON. detail: JSON text."""
    if as_json:
        show_rows([{**cause, "detail": json.loads(cause["detail"])} for cause in causes], (), as_json=True, empty="")
    for cause in () if as_json else causes:
        click.echo(f"{cause['cause']:10} {printable(cause['sentence'])}")
    if not causes:
        click.echo(empty, err=True)


def table(rows: Sequence[Row]) -> str:
    """Left-aligned columns; numbers to the right."""
    header = list(rows[0])
    cells = [[_cell(row[column]) for column in header] for row in rows]
    widths = [max(len(line[index]) for line in [header, *cells]) for index in range(len(header))]
    numeric = [all(isinstance(row[column], int | float | None) for row in rows) for column in header]
    return "\n".join(_line(line, widths, numeric) for line in [header, *cells])


def _line(cells: Iterable[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = (
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numeric, strict=True)
    )
    return "  ".join(padded).rstrip()


def line(cells: Iterable[object]) -> str:
    """Cells side by side, for rows that come one by one."""
    return "  ".join(map(_cell, cells)).rstrip()


def in_short(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case float() if value and not 0.0005 <= abs(value) < 1e9:
            return f"{value:.3g}"  # neither 0.000 nor three hundred digits
        case float():
            return f"{value:.3f}"
        case _:
            return printable(str(value))


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


class Progress:
    """A line that is overwritten, on a terminal. Elsewhere nothing, since such lines would be noise."""

    def __init__(self) -> None:
        self._is_live = sys.stderr.isatty()

    def show(self, text: str) -> None:
        if self._is_live:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def end(self) -> None:
        if self._is_live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
