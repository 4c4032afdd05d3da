"""The plot of INSERTs a second by clients, a curve for each trigger: an SVG, legible on light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Curves = Mapping[str, Mapping[int, float]]
"""Name to (clients to INSERTs a second)."""

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 72, 220, 48, 56
COLOURS = ("#7f8c9b", "#2f81f7", "#d1572b", "#2da44e")
"""Colours with a contrast of at least 3 to white and to near-black."""

HEAD = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" \
font-family="system-ui, sans-serif" font-size="13">
<style>
  text {{ fill: #1f2328 }} .axis {{ stroke: #1f2328 }} .grid {{ stroke: #1f2328; opacity: 0.15 }}
  @media (prefers-color-scheme: dark) {{
    text {{ fill: #e6edf3 }} .axis {{ stroke: #e6edf3 }} .grid {{ stroke: #e6edf3 }}
  }}
</style>
"""


def draw_rates(curves: Curves, title: str = "Single-row INSERTs a second, all workers busy") -> str:
    """The SVG as text. Clients have a logarithmic scale, rates a linear scale from zero."""
    clients = sorted({count for curve in curves.values() for count in curve})
    scale = _Scale(clients, _round_up(max(rate for curve in curves.values() for rate in curve.values())))
    parts = [
        HEAD,
        f"<title>{escape(title)}</title>",
        _text(LEFT, 24, title, weight="600"),
        *_rate_axis(scale),
        *_client_axis(scale, clients),
    ]
    labels = _label_heights([scale.y(curve[max(curve)]) for curve in curves.values()])
    for (name, curve), colour, label in zip(curves.items(), COLOURS, labels, strict=False):
        parts += _curve(scale, name, curve, colour, label)
    return "\n".join([*parts, "</svg>", ""])


class _Scale:
    """From clients and rates to coordinates."""

    def __init__(self, clients: Sequence[int], top: float) -> None:
        self.top = top
        self._first = math.log2(clients[0])
        self._span = (math.log2(clients[-1]) - self._first) or 1.0

    def x(self, clients: int) -> float:
        return LEFT + (math.log2(clients) - self._first) / self._span * (WIDTH - LEFT - RIGHT)

    def y(self, rate: float) -> float:
        return HEIGHT - BOTTOM - rate / self.top * (HEIGHT - TOP - BOTTOM)


def _rate_axis(scale: _Scale) -> list[str]:
    parts = []
    for step in range(5):
        rate, y = scale.top * step / 4, scale.y(scale.top * step / 4)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{rate:,.0f}", anchor="end"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text transform="translate(16 {middle:.0f}) rotate(-90)" text-anchor="middle">INSERTs a second</text>'
    )
    return parts


def _client_axis(scale: _Scale, clients: Sequence[int]) -> list[str]:
    base = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>']
    parts += [_text(scale.x(count), base + 20, str(count), anchor="middle") for count in clients]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, base + 42, "clients", anchor="middle"))
    return parts


def _curve(scale: _Scale, name: str, curve: Mapping[int, float], colour: str, label: float) -> list[str]:
    points = [(scale.x(count), scale.y(rate)) for count, rate in sorted(curve.items())]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points)
    return [
        f'<g fill="{colour}" stroke="none">{dots}</g>',
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        f'<path d="M{WIDTH - RIGHT + 12} {label:.1f}h14" stroke="{colour}" stroke-width="3"/>',
        _text(WIDTH - RIGHT + 32, label + 4, name),
    ]


def _label_heights(ends: Sequence[float], apart: float = 18.0) -> list[float]:
    """Heights of labels: at the ends of the curves, pushed down to avoid overlaps."""
    heights = list(ends)
    last = -math.inf
    for index in sorted(range(len(ends)), key=ends.__getitem__):
        heights[index] = last = max(ends[index], last + apart)
    return heights


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'


def _round_up(value: float) -> float:
    """The next 1, 2, 4 or 8 times a power of ten, whose quarters are round numbers."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)
