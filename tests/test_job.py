"""A job as a value."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, tzinfo

import pytest

from pushq import NewJob
from pushq.job import TRANSITIONS, Status


def test_every_status_has_its_transitions_and_only_retry_leaves_a_finished_one() -> None:
    assert set(TRANSITIONS) == set(Status)
    for status, following in TRANSITIONS.items():
        assert status not in following
        if status.is_finished:
            assert following == {Status.QUEUED}


def test_a_queued_job_must_run_before_it_succeeds_or_fails() -> None:
    assert TRANSITIONS[Status.QUEUED] == {Status.RUNNING, Status.CANCELLED}
    assert {Status.SUCCEEDED, Status.FAILED} < TRANSITIONS[Status.RUNNING]


def test_a_status_is_its_word_in_the_table() -> None:
    assert [str(status) for status in Status] == ["queued", "running", "succeeded", "failed", "cancelled"]
    assert [status for status in Status if not status.is_finished] == ["queued", "running"]


class Nowhere(tzinfo):
    def utcoffset(self, _: datetime | None) -> None:
        return None

    dst = utcoffset

    def tzname(self, _: datetime | None) -> str:
        return "nowhere"


@pytest.mark.parametrize("zone", [None, Nowhere()], ids=["none", "one without an offset"])
def test_a_time_without_a_zone_is_refused(zone: tzinfo | None) -> None:
    with pytest.raises(ValueError, match=r"run_at=2026-01-01T00:00:00 has no time zone; give one"):
        NewJob("x", run_at=datetime(2026, 1, 1, tzinfo=zone))


def test_a_job_is_changed_by_replacing_it() -> None:
    job = NewJob("x", {"a": 1})
    later = dataclasses.replace(job, run_at=datetime(2026, 1, 1, tzinfo=UTC), priority=-1)

    assert (later.task, later.payload, later.priority) == ("x", {"a": 1}, -1)
    assert (job.run_at, job.priority) == (None, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.priority = 3  # type: ignore[misc]


def test_jobs_share_no_payload() -> None:
    assert NewJob("x").payload == {}
    assert NewJob("x").payload is not NewJob("x").payload
