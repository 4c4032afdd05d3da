"""The plot is an SVG that shows every curve and names it."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree as ET

from pushq.bench.figures import Figure, Measure
from pushq.bench.insert import ALWAYS, EMPTY, NONE, OURS, by_clients
from pushq.bench.plot import HEIGHT, WIDTH, draw_rates

SVG = "{http://www.w3.org/2000/svg}"
CURVES = {
    NONE: {1: 1500.0, 8: 6000.0, 32: 12000.0, 64: 13500.0},
    EMPTY: {1: 1490.0, 8: 5900.0, 32: 11400.0, 64: 13000.0},
    ALWAYS: {1: 1480.0, 8: 2600.0, 32: 2400.0, 64: 2100.0},
    OURS: {1: 1500.0, 8: 5900.0, 32: 11500.0, 64: 13100.0},
}


def test_every_curve_is_drawn_inside_the_picture_and_named() -> None:
    root = ET.fromstring(draw_rates(CURVES))

    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {*CURVES, "clients", "INSERTs a second", "64", "20,000"} <= {text or "" for text in texts}
    curves = [line.attrib["points"].split() for line in root.iter(f"{SVG}polyline")]
    assert [len(points) for points in curves] == [4, 4, 4, 4]
    for x, y in (map(float, point.split(",")) for points in curves for point in points):
        assert 0 < x < WIDTH
        assert 0 < y < HEIGHT


def test_names_never_overlap_and_never_leave_the_picture() -> None:
    root = ET.fromstring(draw_rates({name: {1: 1.0, 8: 1.0} for name in CURVES}))

    heights = sorted(float(text.attrib["y"]) for text in root.iter(f"{SVG}text") if text.text in CURVES)
    assert all(below - above >= 15 for above, below in pairwise(heights))
    assert heights[-1] < HEIGHT


def test_what_is_drawn_are_the_medians_with_pools_saturated() -> None:
    def figure(clients: str, pools: str, trigger: str, limit: str, rate: float) -> Figure:
        measure = Measure("insert", f"{clients}, {pools}, {trigger}", "inserts/s", f"with {limit}")
        return Figure(measure, (rate, rate + 1, rate + 2), (10.0, 20.0, 30.0))

    curves = by_clients(
        [
            figure("1 client", "pools saturated", OURS, NONE, 5.0),
            figure("32 clients", "pools saturated", OURS, NONE, 7.0),
            figure("32 clients", "pools saturated", OURS, EMPTY, 100.0),
            figure("32 clients", "pools idle", OURS, NONE, 200.0),
        ]
    )

    assert curves == {NONE: {1: 20.0, 32: 20.0}, OURS: {1: 6.0, 32: 8.0}}
