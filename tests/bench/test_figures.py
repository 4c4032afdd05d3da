"""Figures are judged round by round, and say what they are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from pushq.bench.figures import Figure, Measure, Sample, at_least, at_most, collect, no_more_than, number, percentile
from pushq.bench.machine import Calibration, Noise
from pushq.bench.run import Record

RATE = Measure("drain", "20,000 jobs", "jobs/s", "bare", at_least(0.85))


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    figure = Figure(RATE, values=(90.0, 40.0, 100.0), limits=(100.0, 50.0, 200.0))

    assert figure.ratios == (0.9, 0.8, 0.5)
    assert (figure.median, figure.range, figure.ratio) == (90.0, (40.0, 100.0), 0.8)


@pytest.mark.parametrize(
    ("target", "values", "limits", "verdict"),
    [
        (at_least(0.85), (85.0,), (100.0,), "met"),
        (at_least(0.85), (84.0,), (100.0,), "missed"),
        (at_most(1.5), (1.6,), (1.0,), "missed"),
        (no_more_than(50), (49.0,), (1.0,), "met"),
        (no_more_than(50), (51.0,), (), "missed"),
        (at_least(0.85), (85.0,), (), None),
        (None, (85.0,), (100.0,), None),
    ],
)
def test_a_target_is_held_against_the_ratio_or_the_median(
    target: object, values: tuple[float, ...], limits: tuple[float, ...], verdict: str | None
) -> None:
    measure = Measure("drain", "jobs", "jobs/s", "bare", target)  # type: ignore[arg-type]

    assert Figure(measure, values, limits).verdict == verdict


def test_samples_of_one_measure_become_one_figure_in_the_order_they_came() -> None:
    other = Measure("idle", "statements", "statements")

    figures = collect([Sample(RATE, 1, 2), Sample(other, 3), Sample(RATE, 5, 6)])

    assert figures == [Figure(RATE, (1, 5), (2, 6)), Figure(other, (3,), ())]


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_a_value_that_was_seen(share: float, expected: float) -> None:
    assert percentile([float(one) for one in range(100, 0, -1)], share) == expected


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")]
)
def test_a_number_is_shown_with_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_figure_as_json_holds_every_round() -> None:
    told = json.loads(json.dumps(Figure(RATE, (90.0, 40.0), (100.0, 50.0)).as_json()))

    assert (told["values"], told["limit"]["values"], told["ratios"]) == ([90.0, 40.0], [100.0, 50.0], [0.9, 0.8])
    assert (told["target"], told["verdict"]) == ({"direction": "at least", "bound": 0.85, "of": "ratio"}, "met")


def test_a_sample_comes_back_from_the_record_as_it_was(tmp_path: Path) -> None:
    samples = [Sample(RATE, 90.0, 100.0), Sample(Measure("idle", "CPU", "s", target=no_more_than(0.3)), 0.2)]
    file = tmp_path / "new" / "record.jsonl"
    Record(file).append("drain", 1, samples)
    with file.open("a") as cut_off:
        cut_off.write('{"stage": "drain", "round"')

    assert Record.resumed(file).done == {("drain", 1): samples}
    assert Sample.from_json(asdict(samples[1])) == samples[1]


def test_a_machine_that_is_slow_now_and_then_is_called_too_noisy() -> None:
    quiet = [Calibration(spin=0.020 + 0.0001 * one, commit=0.001) for one in range(8)]
    slow = [Calibration(spin=0.030, commit=0.001), Calibration(spin=0.020, commit=0.005)]

    assert not Noise(quiet).is_too_much
    assert not Noise([*quiet, slow[0]]).is_too_much
    assert Noise([*quiet, *slow, *slow]).slow_rounds == 4
    assert "TOO NOISY" in str(Noise([*quiet, *slow, *slow]))
