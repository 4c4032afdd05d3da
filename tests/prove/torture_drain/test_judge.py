"""Each kind of breach is told from given facts, and a plan can be drawn again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.torture_drain.judge import Facts, Row, Runs, Stop, violations
from tests.torture_drain.plan import SITUATIONS, Job, Plan, Situation


def test_a_plan_is_drawn_from_its_seed_alone_and_situations_take_turns() -> None:
    plans = [Plan.drawn(seed) for seed in range(60)]

    assert plans == [Plan.drawn(seed) for seed in range(60)]
    assert {plan.situation for plan in plans} == set(SITUATIONS)


# Facts of a run in which all went well: one job had its time, one was cut off at the deadline, one was never claimed.
PLAN = replace(Plan.drawn(0, (Situation.LONG,)), grace=1.0, signal="SIGTERM", second=None, spares_database=True)
GOOD = Facts(
    plan=PLAN,
    stop=Stop(signalled_at=(1000.0, 50.0), took=1.4, exit_code=0, second_was_sent=False, left=[]),
    said="supervisor started\ndraining\nsupervisor stopped\n",
    jobs={"done": Job("nap", 0.5), "cut": Job("nap", 9.0), "kept": Job("nap", 0.1)},
    running=2,
    runs=Runs(began={"done": [49.8], "cut": [49.8]}, returned={"done": [50.3]}),
    after=[
        Row("done", "nap", "succeeded", 1, 0, 0, 999.8),
        Row("cut", "nap", "queued", 1, 0, 0, 999.8),
        Row("kept", "nap", "queued", 0, 0, 0, None),
    ],
    rows_of_supervisors=0,
    sessions=[],
    later_runs=Runs(began={"cut": [60.0], "kept": [60.0]}, returned={"cut": [60.0], "kept": [60.0]}),
    end=[Row(job, "nap", "succeeded", 2, 0, 0, 1010.0) for job in ("done", "cut", "kept")],
)


def _after(facts: Facts, job: str, **changes: object) -> Facts:
    return replace(facts, after=[replace(row, **changes) if row.id == job else row for row in facts.after])  # type: ignore[arg-type]


def _end(facts: Facts, job: str, **changes: object) -> Facts:
    return replace(facts, end=[replace(row, **changes) if row.id == job else row for row in facts.end])  # type: ignore[arg-type]


def _stop(facts: Facts, **changes: object) -> Facts:
    return replace(facts, stop=replace(facts.stop, **changes))  # type: ignore[arg-type]


BAD: dict[str, Callable[[Facts], Facts]] = {
    "was gone after 4.10 s; 4.00 s": lambda facts: _stop(facts, took=4.1),
    "was not gone after 14.0 s": lambda facts: _stop(facts, took=14.0, exit_code=None),
    "exit code was 1; 0 would be right": lambda facts: _stop(facts, exit_code=1),
    "exit code was -15; 0 would be right": lambda facts: _stop(facts, exit_code=-15),
    "processes outlived it: 7 (python)": lambda facts: _stop(facts, left=["7 (python)"]),
    "sessions outlived it: claims": lambda facts: replace(facts, sessions=["claims"]),
    "it kept its lease": lambda facts: replace(facts, rows_of_supervisors=1),
    "it complained: Task was destroyed": lambda facts: replace(
        facts, said=facts.said + "Task was destroyed but it is pending!"
    ),
    "1 jobs were claimed after the signal, the last 1.00 s": lambda facts: _after(facts, "kept", started_at=1001.0),
    "1 jobs began after the signal, the last 0.90 s": lambda facts: replace(
        facts, runs=Runs(began=facts.runs.began | {"cut": [49.8, 50.9]}, returned=facts.runs.returned)
    ),
    "1 jobs were left running, cut for one": lambda facts: _after(facts, "cut", status="running"),
    "1 jobs ran again whose handler had returned, done for one": lambda facts: replace(
        facts, later_runs=Runs(began=facts.later_runs.began | {"done": [60.0]})
    ),
    "job done of 0.5 s was cut off before": lambda facts: replace(facts, runs=Runs(began=facts.runs.began)),
    "1 jobs are lost, kept for one": lambda facts: replace(facts, end=facts.end[:2]),
    "1 jobs are there twice, done for one": lambda facts: replace(facts, end=[*facts.end, facts.end[0]]),
    "not all succeeded: {'failed': 1}": lambda facts: _end(facts, "cut", status="failed"),
    "1 jobs were charged with crashes, cut with 1": lambda facts: _end(facts, "cut", crashes=1),
    "1 jobs were charged with failures, cut with 1": lambda facts: _end(facts, "cut", failures=1),
}


def test_a_run_in_which_all_went_well_is_found_good() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize("sentence", BAD)
def test_each_breach_is_found_and_named(sentence: str) -> None:
    (found, *others) = violations(BAD[sentence](GOOD))

    assert sentence in found
    assert others == []


def test_what_only_a_sweeper_can_do_is_no_breach_where_the_database_did_not_answer() -> None:
    frozen = replace(GOOD, plan=replace(PLAN, situation=Situation.FROZEN, spares_database=False))
    for befallen in (
        replace(frozen, rows_of_supervisors=1),
        _after(frozen, "cut", status="running"),
        _after(frozen, "kept", started_at=1009.0),
        _end(frozen, "cut", crashes=1),
    ):
        assert violations(befallen) == []
    assert violations(_end(frozen, "cut", crashes=2)) != []


def test_a_suspect_that_ran_where_the_supervisor_was_killed_may_end_by_its_third_crash() -> None:
    suspect = replace(GOOD, jobs=GOOD.jobs | {"cut": GOOD.jobs["cut"]._replace(crashes=2)})
    failed = _end(suspect, "cut", status="failed", crashes=3)
    killed = replace(
        failed,
        plan=replace(PLAN, second=("SIGKILL", 1.3)),
        stop=replace(failed.stop, exit_code=-9, second_was_sent=True),
    )

    assert violations(killed) == []
    assert violations(failed) == [
        "not all succeeded: {'failed': 1}",
        "1 jobs were charged with crashes, cut with 3",
    ]
