"""The record of random faults: kept over several sittings, and told without hiding a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.record import Record, spans
from tests.torture.record import next_seed, report


def ended(seed: int, **other: Any) -> dict[str, Any]:
    run: dict[str, Any] = {
        "seed": seed,
        "planted": None,
        "jobs": 1000,
        "seconds": 30.0,
        "settled_after": 4.0,
        "faults": {"cut": 2},
        "toothless": [],
        "violations": [],
        "statuses": {"succeeded": 900},
        "runs": 1100,
        "version": "abc",
    }
    return run | other


def test_a_record_goes_on_where_it_ended_whatever_became_of_its_last_line(tmp_path: Path) -> None:
    file = tmp_path / "record.jsonl"
    Record(file).append({"seed": 1})
    file.write_text(file.read_text() + '{"seed": 2, "se')
    Record(file).append({"seed": 3})

    assert [run["seed"] for run in Record(file).runs] == [1, 3]
    assert all("version" in run for run in Record(file).runs)


def test_the_next_seed_is_after_the_highest_that_was_run_with_nothing_planted() -> None:
    assert next_seed([]) == 1
    assert next_seed([ended(7), ended(3), ended(9, planted="no-deadline")]) == 8


def test_a_report_adds_up_and_counts_violations_and_void_runs() -> None:
    lost = {"code": "LOST", "what": "a job"}
    others = [ended(5, planted="no-deadline"), ended(6, jobs=10)]
    told = report([ended(1), ended(2, violations=[lost]), ended(4, toothless=["cut"]), *others])

    assert "| runs | 2, with different seeds between 1 and 2 |" in told
    assert "| with violations | 1: seeds 2 |" in told
    assert "| other seeds, all void, since a fault had no effect | 1 |" in told
    assert "| jobs that ended | succeeded 1,800 |" in told
    assert "| faults that had an effect | 4: cut 4 |" in told


def test_a_seed_that_is_run_again_counts_once_and_its_earlier_run_is_told() -> None:
    lost = {"code": "LOST", "what": "a job"}
    earlier = [ended(1, violations=[lost], version="old"), ended(1, toothless=["cut"])]
    told = report([*earlier, ended(2), ended(1)])

    assert "| runs | 2, with different seeds between 1 and 2 |" in told
    assert "| with violations | 0 |" in told
    assert "| earlier runs of these seeds | void 1, seed 1 (LOST, old) |" in told


@pytest.mark.parametrize(
    ("numbers", "told"), [([], ""), ([3], "3"), ([2, 1, 3, 3], "1 to 3"), ([1, 2, 5, 7, 8], "1 to 2, 5, 7 to 8")]
)
def test_neighbours_are_told_as_spans(numbers: list[int], told: str) -> None:
    assert spans(numbers) == told
