from __future__ import annotations

import json
import math
from threading import Thread
from typing import Any
from uuid import UUID

import pytest

from pushq import NewJob, Tasks, current_job
from pushq.progress import LARGEST_CHECKPOINT, UNCHANGED, Ledger, checked, ledger
from pushq.testing import run

ME = (UUID(int=1), UUID(int=2))
OTHER = (UUID(int=3), UUID(int=4))


def told(**given: Any) -> dict[str, Any]:
    done, total, message, phase = (given.get(name) for name in ("done", "total", "message", "phase"))
    return checked(done, total, message, phase, given.get("checkpoint", UNCHANGED))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"done": -1}, ValueError, "progress(done=-1): give a number from 0 on, below 1e300."),
        ({"total": math.nan}, ValueError, "progress(total=nan): give a number from 0 on, below 1e300."),
        ({"total": math.inf}, ValueError, "progress(total=inf): give a number from 0 on, below 1e300."),
        ({"done": 10**400}, ValueError, "give a number from 0 on, below 1e300."),
        ({"checkpoint": nested(100_000)}, ValueError, "nested too deep for JSON"),
        ({"done": "1"}, TypeError, "progress(done='1'): give a number, not a str."),
        ({"done": True}, TypeError, "progress(done=True): give a number, not a bool."),
        ({"message": 5}, TypeError, "progress(message=5): give a str, not a int."),
        ({"phase": ""}, ValueError, "progress(phase=''): a phase is a name of 1 to 200 characters."),
        ({"phase": "x" * 201}, ValueError, f"progress(phase='{'x' * 50}'): a phase is a name of 1 to 200 characters."),
        ({"phase": "\x00"}, ValueError, "progress(phase='\\x00'): a phase is a name of 1 to 200 characters."),
        ({"checkpoint": "x" * LARGEST_CHECKPOINT}, ValueError, "65,538 bytes of JSON are over 64 KiB"),
        ({"checkpoint": object()}, TypeError, "object"),
        ({"checkpoint": {"text": "\x00"}}, ValueError, "NUL"),
        ({"checkpoint": math.nan}, ValueError, "JSON"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_a_sentence(given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as raised:
        told(**given)
    assert said in str(raised.value)


def test_a_long_message_is_cut_and_a_hostile_one_is_made_storable() -> None:
    assert len(told(message="x" * 5000)["message"]) == 1000
    assert told(message="\x00\ud800")["message"] == "\ufffd\ufffd"


def test_a_checkpoint_of_the_largest_size_is_kept_as_it_was_when_told() -> None:
    value = ["x" * (LARGEST_CHECKPOINT - 4)]
    kept = told(checkpoint=value)["checkpoint"]
    value.append("changed")
    assert kept == ["x" * (LARGEST_CHECKPOINT - 4)]
    assert told(checkpoint=None) == {"checkpoint": None}
    assert told() == {}


def test_calls_are_merged_and_taken_once_with_every_phase() -> None:
    book = Ledger()
    for values in ({"done": 1, "phase": "a"}, {"phase": "a"}, {"phase": "b"}, {"done": 2}, {"phase": "a"}):
        book.tell(ME, lambda: {"checkpoint": {"part": 1}}, values)
    (one,) = book.take()
    assert json.loads(one.progress) == {"checkpoint": {"part": 1}, "done": 2, "phase": "a"}
    assert one.phases == ("a", "b", "a")
    assert book.take() == []


def test_what_could_not_be_written_is_taken_again_before_what_came_later() -> None:
    book = Ledger()
    book.tell(ME, dict, {"phase": "a"})
    taken = book.take()
    book.tell(ME, dict, {"phase": "b", "done": 1})
    book.put_back(taken)
    (one,) = book.take()
    assert (json.loads(one.progress), one.phases) == ({"phase": "b", "done": 1}, ("a", "b"))
    book.close([ME])
    book.put_back(taken)
    assert book.take() == []


def test_a_claim_that_is_closed_gives_what_is_unwritten_and_is_forgotten() -> None:
    book = Ledger()
    book.tell(ME, dict, {"done": 1})
    book.tell(OTHER, dict, {"done": 2})
    book.take()
    book.tell(OTHER, dict, {"done": 3})
    assert [(one.fence, one.progress) for one in book.close([ME, OTHER, ME])] == [(OTHER, '{"done": 3}')]
    assert not book.told


def test_threads_tell_at_once() -> None:
    book = Ledger()

    def tell(number: int) -> None:
        for done in range(500):
            book.tell((UUID(int=number % 3), ME[1]), dict, {"done": done, "phase": str(done)})

    threads = [Thread(target=tell, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    taken = [one for _ in range(20) for one in book.take()]
    for thread in threads:
        thread.join()
    last = {one.fence: one for one in [*taken, *book.take()]}
    assert [json.loads(one.progress)["done"] for one in last.values()] == [499] * 3


async def test_in_a_test_the_calls_are_taken() -> None:
    tasks = Tasks()

    @tasks.register("told")
    async def handle() -> object:
        current_job().progress(1, 2, "half", phase="begun", checkpoint=[1])
        return current_job().checkpoint

    assert await run(tasks, NewJob("told")) is None
    assert not ledger.told
