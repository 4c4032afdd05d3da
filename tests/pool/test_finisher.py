"""The finisher tells of each outcome what became of it: written, or refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import anyio
import pytest

from pushq.database.session import Session
from pushq.errors import DatabaseAway
from pushq.events import Event, JobsEnded, OutcomeRefused, OutcomesPutAside, StatementRejected, subscribe
from pushq.job import Job
from pushq.outcome import Kind, Outcome
from pushq.pool import finisher
from pushq.pool.finisher import finish
from pushq.pool.outbox import Outbox
from pushq.pool.store import Claimant
from tests.support.jobs import Connection, insert, row_of
from tests.support.store import Store
from tests.support.waiting import eventually

CLAIMANT = Claimant("here", 1, ("default",), ("echo",))


async def _a_supervisor(connection: Connection) -> None:
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
        "values ('here', 'here', 1, '1 hour', now() + interval '1 hour')"
    )


async def a_claim(connection: Connection, store: Store) -> Job:
    await _a_supervisor(connection)
    await insert(connection, "echo")
    (job,) = await store.claim(CLAIMANT, uuid4(), 1)
    return job


async def told(store: Store, outcomes: Sequence[Outcome]) -> tuple[list[UUID], list[UUID]]:
    """The tokens of what is said to have ended, and how many are said to have been refused, as ids."""
    events: list[Event] = []
    outbox = Outbox()
    for outcome in outcomes:
        outbox.put(outcome)
    outbox.close()
    with subscribe(events.append):
        await finish(store, store, outbox)
    ended = [one.job.token for event in events if isinstance(event, JobsEnded) for one in event.outcomes]
    return ended, [event.id for event in events if isinstance(event, OutcomeRefused)]


@pytest.mark.parametrize("reply", ["comes", "is lost"])
@pytest.mark.parametrize("kind", [Kind.SUCCEEDED, Kind.RETRIED])
@pytest.mark.parametrize("place_of_the_forgotten", [0, 1])
async def test_of_two_outcomes_of_one_job_in_a_batch_one_is_told_as_ended_and_the_other_as_refused(
    database_url: str,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    reply: str,
    place_of_the_forgotten: int,
) -> None:
    """A claim that a failover forgot, and the one by which the job was claimed anew, in the same pool."""
    session = Session(database_url, "test")
    store = Store(session)
    job = await a_claim(connection, store)
    outcomes = [Outcome(job, kind)]
    outcomes.insert(place_of_the_forgotten, Outcome(job._replace(token=uuid4()), Kind.SUCCEEDED))
    if reply == "is lost":
        monkeypatch.setattr(Store, "finish", _losing_the_first_reply(Store.finish))
    ended, refused = await told(store, outcomes)
    await session.close()

    if reply == "is lost" and kind is Kind.RETRIED:
        assert (ended, refused) == ([], [job.id, job.id])  # of a job that goes on nothing tells who sent it on
    else:
        assert (ended, refused) == ([job.token], [job.id])


def _losing_the_first_reply(finish: object) -> object:
    is_first = True

    async def lose(store: Store, outcomes: Sequence[Outcome]) -> list[Outcome]:
        nonlocal is_first
        refused: list[Outcome] = await finish(store, outcomes)  # type: ignore[operator]
        if is_first:
            is_first = False
            raise DatabaseAway("no reply")
        return refused

    return lose


OBJECTIONS: Mapping[str, str] = {
    "before it is deleted": "create trigger objection before delete on pushq.jobs_unfinished for each row execute",
    "after it is deleted": "create trigger objection after delete on pushq.jobs_unfinished for each row execute",
    "when that is committed": (
        "create constraint trigger objection after delete on pushq.jobs_unfinished deferrable initially deferred "
        "for each row execute"
    ),
    "before it comes into a day": (
        "create trigger objection before insert on pushq.jobs for each row when (new.status <> 'queued') execute"
    ),
}
"""When a trigger of somebody's objects to one row."""
STATES = "P0001 XX000 XX001 0A000 42883 42501 40P01 55P03 57014 53400 58P01 57P01 25006 23514 22012 54000 02000 AB123"
FUNCTION = """
create function public.objection() returns trigger language plpgsql as $$
declare
    it record := coalesce(old, new);
begin
    if it.payload ? 'forbidden' then
        raise exception 'audit says no' using errcode = '{state}';
    end if;
    return it;
end
$$
"""


@asynccontextmanager
async def ended(url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ended]:
    """Twenty jobs that have run, one of which is forbidden, and whose outcomes are about to be written in a batch."""
    monkeypatch.setattr(finisher, "PATIENCE", 0.5)
    sessions = [Session(url, name, deadline=5, settings={"lock_timeout": "200ms"}) for name in ("test", "apart")]
    store, apart = map(Store, sessions)
    await _a_supervisor(connection)
    payloads = [{"forbidden": 1} if number == 6 else {} for number in range(20)]
    ids = [one for payload in payloads for one in await insert(connection, "echo", payload=payload)]
    jobs = await store.claim(CLAIMANT, uuid4(), 20)
    events: list[Event] = []
    outbox = Outbox()
    for job in jobs:
        outbox.put(Outcome(job, Kind.SUCCEEDED))
    with subscribe(events.append):
        yield Ended(store, apart, outbox, events, ids[6], {*ids} - {ids[6]})
    for session in sessions:
        await session.close()


@dataclass
class Ended:
    store: Store
    apart: Store
    outbox: Outbox
    events: list[Event]
    forbidden: UUID
    others: set[UUID]

    @property
    def told(self) -> set[UUID]:
        """The jobs that are said to have ended."""
        return {one.job.id for event in self.events if isinstance(event, JobsEnded) for one in event.outcomes}

    async def have_all_ended_but_one(self) -> bool:
        assert self.forbidden not in self.told
        return self.told == self.others and any(isinstance(event, OutcomesPutAside) for event in self.events)


async def _is_put_aside_alone(connection: Connection, ended: Ended, uninstall: str) -> None:
    """And it is written once nobody objects any more."""
    left: list[Outcome] = []

    async def write() -> None:
        left.extend(await finish(ended.store, ended.apart, ended.outbox))

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        await eventually(ended.have_all_ended_but_one, within=20)
        row = await row_of(connection, ended.forbidden)
        assert (row["status"], row["attempt"], row["crashes"]) == ("running", 1, 0)
        await connection.execute(uninstall)
        ended.outbox.close()
    assert left == []
    assert ended.told == {*ended.others, ended.forbidden}
    assert not any(isinstance(event, OutcomeRefused) for event in ended.events)
    rows = await connection.fetch("select status, attempt, crashes from pushq.jobs")
    assert {tuple(row) for row in rows} == {("succeeded", 1, 0)}


@pytest.mark.parametrize("when", OBJECTIONS)
async def test_an_outcome_that_somebody_objects_to_is_put_aside_alone(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async with ended(database_url, connection, monkeypatch) as them:
        await connection.execute(f"{FUNCTION.format(state='P0001')}; {OBJECTIONS[when]} function public.objection()")
        await _is_put_aside_alone(connection, them, "drop function public.objection cascade")


@pytest.mark.parametrize("state", STATES.split())
async def test_whatever_state_is_raised_for_one_row_is_that_row_s_alone(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    async with ended(database_url, connection, monkeypatch) as them:
        when = OBJECTIONS["before it is deleted"]
        await connection.execute(f"{FUNCTION.format(state=state)}; {when} function public.objection()")
        await _is_put_aside_alone(connection, them, "drop function public.objection cascade")


TRIGGER = """
create function public.objection() returns trigger language plpgsql as 'begin {body} end';
create trigger objection before delete on pushq.jobs_unfinished for each row
when (old.payload ? 'forbidden') execute function public.objection();
"""
FOREIGN_KEY = """
create table public.bills (job uuid references pushq.jobs_unfinished);
insert into public.bills select id from pushq.jobs_unfinished where payload ? 'forbidden';
"""
MORE: Mapping[str, tuple[str, str]] = {
    "a foreign key": (FOREIGN_KEY, "drop table public.bills"),
    "a trigger that skips the row": (TRIGGER.format(body="return null;"), "drop function public.objection cascade"),
    "a trigger that takes long": (
        TRIGGER.format(body="perform pg_sleep(60); return old;"),
        "drop function public.objection cascade",
    ),
}


@pytest.mark.parametrize("what", MORE)
async def test_whatever_keeps_one_row_from_its_day_keeps_no_other(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    install, uninstall = MORE[what]
    async with ended(database_url, connection, monkeypatch) as them:
        for store in (them.store, them.apart):
            await store._session.fetch("set statement_timeout = '300ms'")
        await connection.execute(install)
        await _is_put_aside_alone(connection, them, uninstall)


async def test_what_somebody_objects_to_when_the_pool_drains_is_left_and_still_held(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ended(database_url, connection, monkeypatch) as them:
        when = OBJECTIONS["before it is deleted"]
        await connection.execute(f"{FUNCTION.format(state='P0001')}; {when} function public.objection()")
        them.outbox.close()
        (left,) = await finish(them.store, them.apart, them.outbox)
        row = await row_of(connection, them.forbidden)

        assert (left.job.id, left.job.token) == (them.forbidden, row["token"])
        assert them.told == them.others


HARMLESS: Mapping[str, str] = {
    "a key that cascades": FOREIGN_KEY.replace("unfinished)", "unfinished on delete cascade)"),
    "a key that is set null": FOREIGN_KEY.replace("unfinished)", "unfinished on delete set null)"),
    "a publication": "set client_min_messages = error; create publication everything for all tables",
    "a view": "create view public.open_jobs as select * from pushq.jobs",
    "a trigger that skips the day": (
        "create function public.skip() returns trigger language plpgsql as 'begin return null; end';"
        "create trigger skip before insert on pushq.jobs for each row when (new.status <> 'queued') "
        "execute function public.skip()"
    ),
}


@pytest.mark.parametrize("what", HARMLESS)
async def test_what_harms_nobody_puts_nothing_aside(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with ended(database_url, connection, monkeypatch) as them:
        await connection.execute(HARMLESS[what])
        them.outbox.close()
        assert await finish(them.store, them.apart, them.outbox) == []
        assert them.told == {*them.others, them.forbidden}
        assert {type(event) for event in them.events} == {JobsEnded}


STATEMENT_TRIGGER = """
create function public.say_no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
create trigger say_no before delete on pushq.jobs_unfinished execute function public.say_no();
"""
FOR_ALL: Mapping[str, tuple[str, str]] = {
    "a function that is gone": (
        "alter function pushq.current_day() rename to gone",
        "alter function pushq.gone() rename to current_day",
    ),
    "a rule": (
        "create rule nothing as on delete to pushq.jobs_unfinished do instead nothing",
        "drop rule nothing on pushq.jobs_unfinished",
    ),
    "a trigger of the statement": (STATEMENT_TRIGGER, "drop function public.say_no cascade"),
}


@pytest.mark.parametrize("what", FOR_ALL)
async def test_what_is_the_same_for_all_is_waited_out_and_nothing_is_put_aside(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    install, uninstall = FOR_ALL[what]
    async with ended(database_url, connection, monkeypatch) as them:
        await connection.execute(install)
        async with anyio.create_task_group() as group:
            group.start_soon(finish, them.store, them.apart, them.outbox)
            await eventually(lambda: _is_published(them.events, StatementRejected))
            assert them.told == set()
            await connection.execute(uninstall)
            them.outbox.close()
        assert them.told == {*them.others, them.forbidden}
        assert not await _is_published(them.events, OutcomesPutAside)


async def _is_published(events: list[Event], kind: type[Event]) -> bool:
    return any(type(event) is kind for event in events)
