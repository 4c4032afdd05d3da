"""Payloads that know their JSON text: an INSERT writes that text, unless the payload was changed."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pushq import NewJob, Tasks
from pushq.queue import encoded
from pushq.written import text_of

tasks = Tasks()


@tasks.register("anything")
async def anything(**payload: Any) -> None: ...


def made(**payload: Any) -> Any:
    return anything.job(**payload).payload


def test_a_payload_is_a_dict_as_any_other() -> None:
    payload = made(a=1, b="x")

    assert isinstance(payload, dict)
    assert payload == {"a": 1, "b": "x"}
    assert json.dumps(payload) == '{"a": 1, "b": "x"}'
    assert repr(payload) == "{'a': 1, 'b': 'x'}"
    assert text_of(payload) == '{"a":1,"b":"x"}'
    for other in (copy.copy(payload), copy.deepcopy(payload), pickle.loads(pickle.dumps(payload)), payload | {}):
        assert other == payload
        assert text_of(other) in (None, text_of(payload))


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload.update(c=2),
        lambda payload: payload.__setitem__("c", 2),
        lambda payload: payload.setdefault("c", 2),
        lambda payload: payload.__ior__({"c": 2}),
        lambda payload: payload.pop("a"),
        lambda payload: payload.popitem(),
        lambda payload: payload.__delitem__("a"),
        lambda payload: payload.clear(),
    ],
)
def test_what_is_inserted_is_what_the_payload_holds_then(change: Callable[[Any], None]) -> None:
    job = anything.job(a=1, b="x")
    change(job.payload)

    assert json.loads(encoded(job)) == dict(job.payload) != {"a": 1, "b": "x"}
    assert text_of(job.payload) is None


def test_every_way_to_change_a_dict_is_known() -> None:
    """Whatever a dict has, and a read-only mapping of the same values has not."""
    changes = {"__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"}
    reads = {
        "__class__", "__class_getitem__", "__contains__", "__delattr__", "__dir__", "__doc__", "__eq__", "__format__",
        "__ge__", "__getattribute__", "__getitem__", "__getstate__", "__gt__", "__hash__", "__init__",
        "__init_subclass__", "__iter__", "__le__", "__len__", "__lt__", "__ne__", "__new__", "__or__", "__reduce__",
        "__reduce_ex__", "__repr__", "__reversed__", "__ror__", "__setattr__", "__sizeof__", "__str__",
        "__subclasshook__", "copy", "fromkeys", "get", "items", "keys", "values",
    }  # fmt: skip

    assert set(dir(dict)) == changes | reads


def test_a_change_inside_of_a_value_counts_too() -> None:
    job = anything.job(a=[1], b={"c": 1})
    payload: Any = job.payload
    payload["a"].append(2)
    payload["b"]["c"] = 3

    assert json.loads(encoded(job)) == {"a": [1, 2], "b": {"c": 3}}


def test_a_job_that_is_made_from_another_has_its_own_payload() -> None:
    job = anything.job(a=1)

    assert encoded(replace(job, payload={"a": 2})) == '{"a": 2}'
    assert json.loads(encoded(replace(job, priority=1))) == {"a": 1}
    assert encoded(NewJob("x", {"a": 1})) == '{"a": 1}'


def test_text_beyond_ascii_is_written_for_the_connection() -> None:
    assert encoded(anything.job(a="na\u00efve")) == '{"a": "na\\u00efve"}'
