"""The table and its model agree in many histories, and the model tells a table that does otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import (
    run_state_machine_as_test,
)

from pushq.database import statements
from pushq.database.statements import statement
from pushq.errors import PushqError
from tests.model.machine import HISTORIES, TableMachine
from tests.model.real_table import RealTable
from tests.support.planting import LOCK_CLAIMABLE, spoil

NOTABLE = (
    "an insert was refused",
    "an insert was left out",
    "a claim took jobs",
    "a suspect was claimed",
    "a batch was accepted",
    "a batch was accepted in part",
    "a batch was refused",
    "a lost reply was made good",
    "a job was taken away",
    "a third crash",
    "a supervisor was declared dead",
    "a job of the dead was requeued",
    "jobs were retired",
    "tallies were folded",
    "cancel: cancelled",
    "retry: queued",
    "retry: unknown",
    "pause: paused",
    "resume: resumed",
)
"""What has to have happened, or agreement proves little."""


@pytest.mark.timeout(240)  # some thousand steps, beside everything else
def test_the_table_and_its_model_agree_after_every_step(table: RealTable) -> None:
    run_state_machine_as_test(TableMachine, settings=HISTORIES)

    print(dict(table.happened))
    assert [happening for happening in NOTABLE if not table.happened[happening]] == []


# Bugs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bug:
    """A statement, or a function in the database, in which `text` is replaced wherever it stands."""

    place: str
    text: str
    by: str = ""

    def planted_in(self, text: str) -> str:
        assert self.text in text
        return text.replace(self.text, self.by)


FOUND_WITHIN = 200
"""Histories. What needs several rare things in a row is looked for in tests/isolation, by every order of few steps."""

BUGS = {
    "finishes without the token": Bug(
        "pushq.end_sorted", "coalesce(end_sorted.tokens[width_bucket(job.id, end_sorted.ids)], job.token)", "job.token"
    ),
    "forgets the token of what is finished": Bug(
        "pushq.end_sorted", "case when kind <> 'crashed' and not is_by_hand then token end", "null"
    ),
    "charges a snooze as a failure": Bug(
        "pushq.give_back", "job.id)] = 'retried')::int", "job.id)] <> 'released')::int"
    ),
    "delays what is released": Bug(
        "pushq.give_back", "job.id)] = 'released' then job.run_at", "job.id)] = '' then job.run_at"
    ),
    "claims from a paused queue": Bug("pushq.open_queues", "paused.paused_at IS NOT NULL", "false"),
    "claims for a supervisor whose lease has run out": Bug(LOCK_CLAIMABLE, " and live.lease_until > now()"),
    "claims from any queue first": Bug(LOCK_CLAIMABLE, "order by queue.place", "order by queue.place desc"),
    "claims its limit of each priority": Bug(LOCK_CLAIMABLE, "most - cardinality(ids)", "most"),
    "claims nothing that is urgent": Bug(LOCK_CLAIMABLE, "elsif has_priorities and", "elsif false and"),
    "counts no attempt": Bug("pushq.hand_out", "job.attempt + (job.attempt < 2147483647)::int", "job.attempt"),
    "claims what is not due": Bug("pushq.lock_ordinary", " and job.run_at <= lock_ordinary.due_by"),
    "claims tasks that the pool does not know": Bug(
        "pushq.ordinary_lines",
        "(existing.task = (ordinary_lines.tasks)[width_bucket(existing.task, ordinary_lines.tasks)])",
        "existing.run_at is not null",
    ),
    "leaps over a task": Bug("pushq.ordinary_lines", "tasks) + 1)]", "tasks) + 2)]"),
    "claims the oldest id first": Bug("pushq.lock_ordinary", "order by job.run_at, job.id", "order by job.id"),
    "claims what is urgent and not due": Bug("pushq.lock_by_priority", "job.run_at <= lock_by_priority.due_by", "true"),
    "claims the least urgent first": Bug("pushq.lock_by_priority", "min(line.head)", "max(line.head)"),
    "passes over what is urgent and overdue": Bug(
        "pushq.lock_by_priority", "where shelf.is_late and", "where false and"
    ),
    "leaps over an urgent task": Bug("pushq.lines_by_priority", "tasks) + 1]", "tasks) + 2]"),
    "charges a crash as a failure": Bug("requeue", "crashes = job.crashes + $3", "failures = job.failures + $3"),
    "forgives a third crash": Bug("requeue", "job.crashes + 1 >= ", "job.crashes >= "),
    "takes the jobs of the pool's neighbours": Bug("requeue", "or pool = $2", "or pool > 0"),
    "folds anew what was folded": Bug("fold", "sums.jobs + excluded.jobs", "excluded.jobs"),
    "does not count who was cancelled": Bug(
        "pushq.end_sorted", "count(*) as jobs", "count(*) filter (where is_attempt) as jobs"
    ),
    "resumes every queue": Bug("pushq.resume", "known.name = resume.queue and "),
    "retires a day that may still be young": Bug(
        "pushq.is_outlived", "and newer.day <= (now() - is_outlived.keep) at time zone 'utc'"
    ),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_the_model_tells_a_table_that(table: RealTable, monkeypatch: pytest.MonkeyPatch, bug: Bug) -> None:
    if bug.place.startswith("pushq."):
        table.wait(spoil(table.connection, bug.place, bug.text, bug.by))
    else:
        monkeypatch.setitem(statements._STATEMENTS, bug.place, bug.planted_in(statement(bug.place)))

    with pytest.raises((AssertionError, PushqError)):
        run_state_machine_as_test(
            TableMachine, settings=settings(HISTORIES, max_examples=FOUND_WITHIN, phases=[Phase.generate])
        )
    print(f"found within {table.histories} histories")
