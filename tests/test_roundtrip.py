"""What a handler is given is what was given to Task.job(): equal, or refused where the job is made."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    SecretBytes,
    SecretStr,
    create_model,
    field_serializer,
)
from typing_extensions import TypeAliasType, TypedDict  # pydantic asks for it below Python 3.12

from pushq import Task, Tasks
from pushq.errors import PayloadError


def task_of(annotation: Any) -> Task[..., Any]:
    def handler(x: Any) -> None: ...

    handler.__annotations__["x"] = annotation
    return Tasks().register("it")(handler)


def sent(annotation: Any, value: object) -> object:
    """What the handler of one argument would be given."""
    task = task_of(annotation)
    return task.arguments(json.dumps(dict(task.job(value).payload)))["x"]


# What is refused -----------------------------------------------------------------------------------------------------


class Base(BaseModel):
    a: int


class Derived(Base):
    b: int = 0


class Namesake(Base):
    """Nothing more than Base, but another type."""


class Hidden(BaseModel):
    a: int
    token: str = Field("none", exclude=True)


class Needed(BaseModel):
    a: int
    token: str = Field(exclude=True)


class Rounded(BaseModel):
    x: float

    @field_serializer("x")
    def short(self, value: float) -> float:
        return round(value, 1)


class Remembering(BaseModel):
    a: int
    _seen: int = PrivateAttr(0)


class TwoNames(BaseModel):
    x: int = Field(validation_alias="in", serialization_alias="out")


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)
    x: int = Field(alias="in")


class InBase64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64")
    x: bytes


class OfFloats(BaseModel):
    x: list[float] = []


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


@dataclasses.dataclass
class Point:
    x: int


@dataclasses.dataclass
class Point3(Point):
    z: int = 0


@dataclasses.dataclass
class Seeded:
    a: int
    seed: dataclasses.InitVar[int]
    total: int = dataclasses.field(init=False, default=0)

    def __post_init__(self, seed: int) -> None:
        self.total = self.a + seed


class Named(TypedDict):
    a: int


class Pair(NamedTuple):
    a: int
    b: int


class Wide(Enum):
    ONE = (1, 2)


def remembering() -> Remembering:
    value = Remembering(a=1)
    value._seen = 3
    return value


def changed() -> Base:
    value = Base(a=1)
    value.a = "one"  # type: ignore[assignment]
    return value


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


class Chain(BaseModel):
    next: Chain | None = None


def chain(length: int) -> Chain:
    value = Chain()
    for _ in range(length):
        value = Chain(next=value)
    return value


SECRET = SecretStr("hunter2")
BERLIN = ZoneInfo("Europe/Berlin")

CHANGED: list[tuple[Any, object]] = [
    (SecretStr, SECRET),
    (SecretBytes, SecretBytes(b"hunter2")),
    (dict[str, SecretStr | None], {"hunter2": SECRET}),
    (Base, Derived(a=1, b=2)),
    (Base, Namesake(a=1)),
    (Base | None, Derived(a=1, b=2)),
    (list[Base], [Base(a=1), Derived(a=1, b=2)]),
    (dict[str, tuple[Base, ...]], {"k": (Derived(a=1),)}),
    (create_model("Holder", base=(Base, ...), again=(Base | None, None)), {"base": Derived(a=1, b=2)}),
    (Point, Point3(1, 2)),
    (Named, {"a": 1, "b": 2}),
    (list[Named], [{"a": 1}, {"a": 1, "b": 2}]),
    (Hidden, Hidden(a=1, token="t")),
    (Needed, Needed(a=1, token="t")),
    (Rounded, Rounded(x=1.23)),
    (Remembering, remembering()),
    (TwoNames, TwoNames.model_validate({"in": 3})),
    (ByName, ByName(x=3)),
    (InBase64, InBase64(x=b"12345678")),
    (Seeded, Seeded(1, 2)),
    (Base, changed()),
    (OfFloats, OfFloats(x=[float("nan")])),
    (Open, Open(x=(1, 2))),  # type: ignore[call-arg]
    (Annotated[int, AfterValidator(lambda x: x + 1)], 1),
    (Annotated[int, PlainSerializer(lambda x: x // 10)], 12),
    (dict[tuple[int, int], int], {(1, 2): 3}),
    (dict[int | None, int], {None: 1}),
    (dict[str | int, int], {1: 1}),
    (str | bytes, b"text"),
    (str | datetime, datetime(2026, 1, 2, tzinfo=UTC)),
    (Wide | str, Wide.ONE),
    (Any, datetime(2026, 1, 2, tzinfo=UTC)),
    (Any, {1: 2}),
    (Any, {"a": (1, 2)}),
    (Any, {1}),
    (Any, nested(300)),
    (Chain, chain(200)),
    (Sequence[int], (1, 2)),
    (datetime, datetime(1880, 1, 1, tzinfo=BERLIN)),
    (time, time(1, 2, tzinfo=timezone(timedelta(seconds=30)))),
]


@pytest.mark.parametrize(("annotation", "value"), CHANGED)
def test_an_argument_that_would_come_back_changed_is_refused_and_not_shown(annotation: Any, value: object) -> None:
    with pytest.raises(PayloadError) as refused:
        task_of(annotation).job(value)

    assert re.fullmatch(r"[^\n]+\.", str(refused.value))
    assert "hunter2" not in str(refused.value)


def test_one_of_the_others_is_refused_by_its_own_name() -> None:
    task = Tasks().register("it")(lambda **_: None)

    assert task.job(copy=[1], json="x").payload == {"copy": [1], "json": "x"}
    with pytest.raises(PayloadError, match=r"^Argument 'copy' of task 'it' .* a tuple comes back from JSON as a list;"):
        task.job(copy=(1,), json="x")


# What is not ---------------------------------------------------------------------------------------------------------


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    when: datetime
    ids: tuple[UUID, ...]
    kinds: set[Literal["a", "b"]]


class Consistent(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    x: bytes


class Plain:
    """Its == tells whether it is the same object."""

    def __init__(self, text: str) -> None:
        self.text = text


TakenPlain = Annotated[
    Any, BeforeValidator(lambda x: Plain(x) if isinstance(x, str) else x), PlainSerializer(lambda x: x.text)
]

TWICE = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN)
"""In the hour that comes twice: Python holds it for equal to no time of another zone."""

ADDRESS = IPv4Address("10.0.0.1")
ORDINARY: list[tuple[Any, object]] = [
    (Strict, Strict(when=datetime(2026, 1, 2, tzinfo=UTC), ids=(UUID(int=1),), kinds={"a"})),
    (Consistent, Consistent(x=b"\xff\xfe")),
    (Hidden, Hidden(a=1)),
    (Rounded, Rounded(x=1.5)),
    (Remembering, Remembering(a=1)),
    (Chain, chain(20)),
    (Pair, Pair(1, 2)),
    (Named, {"a": 1}),
    (Derived | Base, Derived(a=1, b=2)),
    (Sequence[int], [1, 2]),
    (Path, Path("/tmp")),
    (IPv4Address | str, ADDRESS),
    (re.Pattern[str], re.compile("a.b")),
    (dict[UUID, timedelta], {UUID(int=3): timedelta(microseconds=1)}),
    (Any, {"a": [1, 2.5, None, True, {"b": "c"}], "n": 10**30, "x": 1e300}),
    (Any, nested(100)),
    (Any, "\\u0000"),
]


@pytest.mark.parametrize(("annotation", "value"), ORDINARY)
def test_what_comes_back_as_it_was_given_is_taken(annotation: Any, value: object) -> None:
    back = sent(annotation, value)

    assert (back, type(back)) == (value, type(value))


@pytest.mark.parametrize("annotation", [datetime, datetime | str, TypeAliasType("When", datetime | str)])
def test_an_hour_that_a_clock_has_twice_is_taken(annotation: Any) -> None:
    back = sent(annotation, TWICE)

    assert isinstance(back, datetime)
    assert back.astimezone(UTC) == TWICE.astimezone(UTC)


def test_objects_without_equality_are_compared_by_what_they_hold() -> None:
    holder = create_model("Holder", plain=(TakenPlain, ...))
    back = sent(list[holder], [holder(plain=Plain("a"))])

    assert isinstance(back, list)
    assert back[0].plain.text == "a"


def test_what_is_iterated_over_comes_as_something_to_iterate_over() -> None:
    back = sent(Iterable[int], [1, 2])

    assert isinstance(back, Iterable)
    assert list(back) == [1, 2]


@pytest.mark.parametrize(
    "annotation",
    [
        int, str, bytes, bool, Decimal, date, timedelta, UUID, Enum("Colour", "RED"), Literal["a", 1],
        int | str | None, list[int], set[UUID], frozenset[date], tuple[int, str], tuple[int, ...], dict[str, list[int]],
        Annotated[str, Field(min_length=1)], Iterable[int],
    ],
    ids=str,
)  # fmt: skip
def test_for_most_types_nothing_is_asked_of_the_value(annotation: Any) -> None:
    assert not task_of(annotation).form.doubts


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (float, 1.5), (list[float | None], [1.5, None]), (datetime, datetime(2026, 1, 2, tzinfo=BERLIN)),
        (Base, Base(a=1)), (dict[str, Base], {"k": Base(a=1)}), (Point, Point(1)),
        (tuple[OfFloats, ...], (OfFloats(x=[1.0]),)),
    ],
)  # fmt: skip
def test_of_models_without_serializers_of_their_own_no_more_is_asked_than_their_type(
    annotation: Any, value: object
) -> None:
    (is_sure,) = task_of(annotation).form.doubts.values()

    assert is_sure(value)


# Any type, any value -------------------------------------------------------------------------------------------------


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Word(Enum):
    YES = "yes"
    NO = "no"


ZONES = st.sampled_from([None, UTC, timezone(timedelta(hours=-3, minutes=30)), timezone(timedelta(seconds=61))])
LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(),
    str: st.text(),
    bool: st.booleans(),
    float: st.floats(),
    bytes: st.binary(max_size=3),
    type(None): st.none(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    date: st.dates(),
    time: st.times(timezones=ZONES),
    datetime: st.datetimes(timezones=ZONES),
    timedelta: st.timedeltas(),
    UUID: st.uuids(),
    Level: st.sampled_from(Level),
    Word: st.sampled_from(Word),
    (Literal["a", 1] | None): st.sampled_from(["a", 1, None]),
    SecretStr: st.builds(SecretStr, st.text()),
    Base: st.sampled_from([Base(a=1), Derived(a=1, b=2), changed()]),
    Point: st.sampled_from([Point(1), Point3(1, 2)]),
    Rounded: st.builds(Rounded, x=st.sampled_from([1.5, 1.25])),
    Any: st.recursive(
        st.one_of(st.none(), st.integers(), st.text(), st.binary(max_size=2), st.datetimes()),
        lambda inner: st.one_of(st.lists(inner), st.tuples(inner), st.dictionaries(st.text() | st.integers(), inner)),
        max_leaves=4,
    ),
}
KEYS = [str, int, bool, float, bytes, UUID, date, Level, Word]

Typed = tuple[Any, st.SearchStrategy[Any]]
"""An annotation, and the values that fit it."""


def contained(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.builds(_shape, st.integers(0, 5), inner, inner, st.sampled_from(KEYS))


def _shape(number: int, one: Typed, other: Typed, key: Any) -> Typed:
    kind: Any = one[0]
    another: Any = other[0]
    match number:
        case 0:
            return list[kind], st.lists(one[1], max_size=3)
        case 1:
            return tuple[kind, ...], st.lists(one[1], max_size=3).map(tuple)
        case 2:
            return tuple[kind, another], st.tuples(one[1], other[1])
        case 3:
            return Union[kind, another], one[1] | other[1]  # noqa: UP007 - | is not for every annotation
        case 4:
            return dict[key, kind], st.dictionaries(LEAVES[key], one[1], max_size=2)
    return _model_of(one)


def _model_of(one: Typed) -> Typed:
    model = create_model("Model", x=(one[0], ...))
    return model, one[1].map(lambda value: model.model_construct(x=value))


TYPED = st.recursive(st.sampled_from([*LEAVES.items()]), contained, max_leaves=3)


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TYPED.flatmap(lambda typed: st.tuples(st.just(typed[0]), typed[1])))
def test_whatever_is_taken_comes_back_equal(typed: tuple[Any, Any]) -> None:
    annotation, value = typed
    try:
        back = sent(annotation, value)
    except PayloadError:
        task = task_of(annotation)
        with pytest.raises(PayloadError):  # where it was made, not in the worker
            task.job(value)
    else:
        assert back == value
