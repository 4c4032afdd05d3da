"""Bugs to be found: each takes away one thing on which a guarantee stands, in supervisors and pools, by a patch.

A battery that has never found anything proves nothing. These are what it must find.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

import anyio
from anyio.abc import TaskGroup

import pushq.database.statements
import pushq.outcome
import pushq.pool
import pushq.pool.claimer
import pushq.pool.finisher
import pushq.pool.lanes
import pushq.storable
from pushq.database.patience import wait_out
from pushq.database.session import Session
from pushq.errors import DatabaseTrouble
from pushq.link import Link, Message
from pushq.outcome import Kind, Outcome
from pushq.pool.attempts import Attempts
from pushq.pool.batch import BatchAttempt
from pushq.pool.finisher import Unwritten
from pushq.pool.in_doubt import InDoubt
from pushq.pool.lookback import Lookback, Span
from pushq.pool.recalls import Recalls
from pushq.pool.store import Fence, Following, Store
from pushq.pool.teller import Teller
from pushq.settings import Settings
from pushq.supervisor import store as supervisor
from pushq.supervisor.crew import Crew
from pushq.supervisor.heartbeat import Heartbeat
from pushq.supervisor.processes import PoolProcess
from pushq.sweeper import Sweeper
from pushq.sweeper.store import Sighting
from pushq.sweeper.witness import Witness

_PR_SET_PDEATHSIG = 1


def plant(name: str | None) -> None:
    """Raises KeyError for an unknown name; does nothing for none."""
    if name:
        BUGS[name]()


# Batches --------------------------------------------------------------------------------------------------------------


def _items_of_others() -> None:
    """The items of a batch's list are counted from another job on."""
    rightly = BatchAttempt._note_returned

    def shifted(self: BatchAttempt, value: object) -> None:
        rightly(self, [*value[1:], *value[:1]] if isinstance(value, list) else value)

    setattr(BatchAttempt, "_note_returned", shifted)  # noqa: B010 - mypy would refuse the assignment


# The fence ------------------------------------------------------------------------------------------------------------


def _finish_without_token() -> None:
    """Whoever ran a job may finish it, whoever holds it now."""
    of_whoever_holds = (
        "array(select coalesce(job.token, mine.token) from unnest($1::uuid[], $2::uuid[]) with ordinality as "
        "mine (id, token, place) left join pushq.jobs_unfinished as job on job.id = mine.id order by mine.place)"
    )
    _rewrite("give_back", "$2::uuid[]", of_whoever_holds)


def _same_token_for_all() -> None:
    """A token that is no different in the next claim: a counter that was reset, an attempt's number."""
    _replace(pushq.pool.claimer, "uuid4", lambda: UUID(int=1))


# The claim ------------------------------------------------------------------------------------------------------------


def _claim_without_lock() -> None:
    """Two pools read the same job as queued, and both set it running."""


def _claim_without_lease() -> None:
    """A supervisor that others believe dead claims on."""
    live = "exists (select from pushq.supervisors where name = $3 and lease_until > now())"
    _rewrite("next_due", f"{live} as lease_is_live", "$3 > '' as lease_is_live")


def _same_attempt_again() -> None:
    """A job that is claimed again is not told apart from its first run."""


def _looks_ahead_only() -> None:
    """A cursor: claims never look back at what a late commit has put behind it."""
    _replace(Lookback, "span", property(lambda _: Span(time.monotonic() - 0.2)))
    _replace(Lookback, "newest", property(lambda lookback: lookback.span))


def _no_taking_back() -> None:
    """What a claim whose reply was lost had taken stays taken."""

    async def take_back(_: InDoubt) -> list[object]:
        return []

    _replace(InDoubt, "take_back", take_back)


def _two_clocks() -> None:
    """A retry is due by the clock of the host, and claimed by the database's."""
    finish = Store.finish

    async def by_own_clock(store: Store, batch: Sequence[Outcome]) -> list[Outcome]:
        (row,) = await store._session.fetch("select extract(epoch from clock_timestamp())::float8 as now")
        off = time.time() - row["now"]
        for outcome in batch:
            outcome.delay = max(0.0, outcome.delay + off) if outcome.delay else 0.0
        return await finish(store, batch)

    _replace(Store, "finish", by_own_clock)


# The outcome ----------------------------------------------------------------------------------------------------------


def _outcome_dropped() -> None:
    """`except Exception` around the write: what could not be written once is forgotten."""
    finish = Store.finish

    async def finish_once(store: Store, batch: Sequence[Outcome]) -> list[Outcome]:
        try:
            return await finish(store, batch)
        except DatabaseTrouble:
            return list(batch)

    async def forget(_: Store, __: Sequence[Outcome]) -> set[Fence]:
        return set()

    _replace(Store, "finish", finish_once)
    _replace(Store, "still_held", forget)


def _lost_reply_believed() -> None:
    """A finish whose reply was lost counts as done."""
    finish = Store.finish

    async def believe(store: Store, batch: Sequence[Outcome]) -> list[Outcome]:
        try:
            return await finish(store, batch)
        except DatabaseTrouble:
            return []

    _replace(Store, "finish", believe)


def _doubt_is_failure() -> None:
    """A finish whose reply was lost counts as a failure of the attempt, whatever that came to."""
    finish = Store.finish

    async def charge(store: Store, batch: Sequence[Outcome]) -> list[Outcome]:
        try:
            return await finish(store, batch)
        except DatabaseTrouble:
            failures = [replace(one, kind=Kind.FAILED, error="no reply to its outcome", result=None) for one in batch]
            refused = {outcome.job.fence for outcome in await wait_out(lambda: finish(store, failures))}
            refused -= await wait_out(lambda: store.finished_with_token(batch))
            return [outcome for outcome in batch if outcome.job.fence in refused]

    _replace(Store, "finish", charge)


def _text_as_it_is() -> None:
    """An error's text goes to the database as the handler made it, and a whole batch is refused for one."""

    def storable_text(text: str, _: int = 0) -> str:
        return text

    _replace(pushq.outcome, "storable_text", storable_text)
    _replace(pushq.storable, "storable_text", storable_text)

    async def write(store: Store, batch: Sequence[Outcome]) -> Unwritten:
        await wait_out(lambda: store.finish(batch))
        return Unwritten()

    _replace(pushq.pool.finisher, "write", write)


# The sweeper ----------------------------------------------------------------------------------------------------------


def _swept_by_age() -> None:
    """A job that has run for longer than a lease is taken away, whoever lives."""
    sweep = Sweeper.sweep
    too_old = (
        "update pushq.jobs_unfinished set status = 'queued', token = null"
        " where status = 'running' and started_at < now() - interval '2 seconds'"
    )

    async def sweep_by_age(sweeper: Sweeper) -> object:
        await sweeper._store._session.fetch(too_old)
        return await sweep(sweeper)

    _replace(Sweeper, "sweep", sweep_by_age)


def _one_witness() -> None:
    """The lease alone decides: a pause of the database makes everybody look dead."""

    def dead(_: Witness, sightings: Sequence[Sighting], *__: float) -> list[tuple[str, int]]:
        return [(one.name, one.heartbeat) for one in sightings if one.expired]

    _replace(Witness, "dead", dead)


def _nobody_sweeps() -> None:
    async def sweep(_: Sweeper) -> None:
        """Does nothing."""

    _replace(Sweeper, "sweep", sweep)


# Processes ------------------------------------------------------------------------------------------------------------


def _heartbeat_on_the_loop() -> None:
    """A pool sends its supervisor's heartbeats, on the loop that a handler may block."""
    beat, run = Heartbeat.run, pushq.pool.Pool.run

    async def run_and_beat(pool: pushq.pool.Pool) -> None:
        given, settings = pool.assignment, Settings.load()
        session = Session(given.url, f"pushq pool {given.pool} of {given.supervisor}: heartbeat", deadline=5.0)
        async with anyio.create_task_group() as around:
            heartbeat = Heartbeat(
                supervisor.Store(session),
                given.supervisor,
                interval=settings.heartbeat_interval,
                lease=settings.lease,
                workers=settings.concurrency,
                revived=lambda: pool._register_again(around),
            )
            around.start_soon(beat, heartbeat)
            await run(pool)
            around.cancel_scope.cancel()
        session.discard()

    async def beat_no_more(_: Heartbeat) -> None:
        await anyio.sleep_forever()

    _replace(pushq.pool.Pool, "run", run_and_beat)
    _replace(Heartbeat, "run", beat_no_more)


def _crash_is_a_failure() -> None:
    """Who shared a process with a killer spends an attempt."""
    counted = "        failures = job.failures + $3::int,\n"
    _rewrite("requeue", "        crashes = job.crashes + $3::boolean::int,\n", counted)


def _crash_is_free() -> None:
    """A job that kills its process does so for ever."""
    _rewrite("requeue", "        crashes = job.crashes + $3::boolean::int,\n", "")


def _dead_pool_forgotten() -> None:
    """The supervisor starts a new pool, and leaves what the dead one ran."""

    async def charge(*_: object) -> None:
        """Does nothing."""

    _replace(Crew, "_charge", charge)


def _pools_outlive() -> None:
    """Nothing ends a pool whose supervisor is gone: no signal, no line that closes, no report that does not arrive."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)
    obey = pushq.pool.Pool.obey

    async def obey_for_ever(pool: pushq.pool.Pool, link: Link, around: TaskGroup) -> None:
        await obey(pool, _endless(link), around)  # type: ignore[arg-type]

    _replace(pushq.pool.Pool, "obey", obey_for_ever)
    send = Link.send

    async def send_if_somebody_listens(link: Link, message: Message) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await send(link, message)

    _replace(Link, "send", send_if_somebody_listens)


async def _endless(link: Link) -> AsyncIterator[object]:
    async for order in link:
        yield order
    await anyio.sleep_forever()


def _no_deadline() -> None:
    """The drain waits for handlers however long they take."""
    _replace(Attempts, "stop", lambda _: None)
    _replace(PoolProcess, "kill", lambda _: None)


def _suspects_among_others() -> None:
    """A job that has killed two processes runs beside others, which are charged with it."""


# Those that wait ------------------------------------------------------------------------------------------------------


def _never_told() -> None:
    """A pool tells nobody, and whoever waits finds out at the next look."""

    def forget(_: Teller, __: Sequence[str]) -> None:
        """Does nothing."""

    _replace(Teller, "put", forget)


def _told_at_the_claim() -> None:
    """Whoever waits is told of a success when the job begins."""


def _crash_untold() -> None:
    """The third crash ends the job, and nobody hears of it."""


def _waiters_forgotten() -> None:
    """A job that goes on after an attempt has lost those that wait for it."""


# Guests ---------------------------------------------------------------------------------------------------------------


def _guest_without_token() -> None:
    """A guest finishes a job under whatever token the job has now."""


def _guest_always_counts() -> None:
    """A guest is told that its outcome counted, whether or not it did."""


def _guest_without_lease() -> None:
    """The lease of a guest has run out when it begins."""


def _dead_guest_kept() -> None:
    """A guest that never comes back keeps its jobs."""
    _rewrite("declare_dead", "supervisor.pid <> 0", "supervisor.pid > 0")


# Cancels --------------------------------------------------------------------------------------------------------------


def _cancelling_and_over() -> None:
    """A job that is called `cancelling` has ended, and whoever waits is told so while the handler goes on."""


def _cancelling_goes_on() -> None:
    """What queues a job again does not look whether the job is being cancelled."""
    _rewrite("requeue", "job.apart is not distinct from 'cancelling' as is_cancelled", "false as is_cancelled")


def _cancel_unheard() -> None:
    """A pool does not listen to who cancels its jobs."""

    def hear(_: Recalls, __: str) -> None:
        """Does nothing."""

    _replace(Recalls, "hear", hear)


# Events ---------------------------------------------------------------------------------------------------------------


def _events_afterwards() -> None:
    """A pool writes outcomes by one statement, and their events by another."""
    note = "select pushq.note_changes($1::int[], $2, $3, $4, $5, null, $6, null, $7, $8, $9)"

    async def write_and_note(store: Store, name: str, outcomes: Sequence[Outcome], *arguments: object) -> object:
        row = await store._one(name, *arguments)
        noted = [outcome.kind is not Kind.SUCCEEDED or outcome.job.all_events for outcome in outcomes]
        if True in noted:
            (ids, _, _, _, kinds, errors, tracebacks, _) = arguments
            jobs = [outcome.job for outcome in outcomes]
            tenants, attempts = [job.tenant_id for job in jobs], [job.attempt for job in jobs]
            given = (row["places"], noted, ids, tenants, attempts, kinds, errors, tracebacks, store._supervisor)
            await store._session.fetch(note, *given)
        return row

    _replace(Store, "_one_noting", write_and_note)


def _going_on_unnoted() -> None:
    """A job that goes on after an attempt has no event of it."""


# Artifacts ------------------------------------------------------------------------------------------------------------


def _file_without_token() -> None:
    """Whoever has written an artifact completes it, also if the job is somebody else's by now."""


def _piece_twice() -> None:
    """A piece that is sent again after a lost reply is kept twice."""


def _drafts_for_ever() -> None:
    """Nobody gives up what dead writers have left."""


# Webhooks -------------------------------------------------------------------------------------------------------------


def _going_on_untold() -> None:
    """Nobody is told that a job goes on after an attempt."""


def _url_untold() -> None:
    """A job ends, and its own URL is not told."""


def _told_twice() -> None:
    """Each delivery to a webhook is written twice."""


def _told_in_disorder() -> None:
    """A delivery does not find those that come before."""


def _gone_goes_on() -> None:
    """A receiver answers 410, and its webhook is not paused."""


# Needs ----------------------------------------------------------------------------------------------------------------


def _counted_before_the_lock() -> None:
    """A claim counts what is free, and only then locks the turnstiles."""


def _one_snapshot() -> None:
    """A claim locks the turnstiles and counts in one statement, which sees what was there before it waited."""


def _turnstile_left_out() -> None:
    """Of one name the turnstile is not locked."""


def _follows_across_lanes() -> None:
    """The next of another lane takes the place of a job that has ended."""


def _turn_without_end() -> None:
    """A lane goes on for as long as it has jobs, whoever waits."""
    following = pushq.pool.lanes.Lanes.following

    def follow_on(self: pushq.pool.lanes.Lanes, outcomes: Sequence[Outcome]) -> Following | None:
        those = following(self, outcomes)
        return those and replace(those, turns_over=[False for _ in outcomes])

    _replace(pushq.pool.lanes.Lanes, "following", follow_on)
    _replace(pushq.pool.lanes, "LONGEST", math.inf)


def _token_unspent() -> None:
    """A claim looks at the tokens of a rate, and takes none."""


def _no_ring_at_requeue() -> None:
    """What takes jobs from the dead rings for these jobs, and not for the units that these held."""
    _rewrite("requeue", "select pushq.ring_all_if_idle() from requeued", "select from requeued")


def _no_ring_at_cancel() -> None:
    """What ends a job by hand does not ring for its units."""


def _no_ring_at_a_rule() -> None:
    """Whoever raises a capacity wakes nobody."""


def _cancelling_holds_nothing() -> None:
    """A job that is being cancelled holds nothing, though its handler goes on."""


# ----------------------------------------------------------------------------------------------------------------------


def _rewrite(name: str, old: str, new: str, times: int = 1) -> None:
    """Replaces a part of a statement that must be there."""
    text = pushq.database.statements.statement(name)
    assert text.count(old) == times, f"{old!r} is in {name}.sql {text.count(old)} times: plant this bug elsewhere"
    pushq.database.statements._STATEMENTS[name] = text.replace(old, new)


def _replace(owner: object, name: str, new: object) -> None:
    assert hasattr(owner, name), f"{owner}.{name} is no more: plant this bug elsewhere"
    setattr(owner, name, new)


BUGS: dict[str, Callable[[], None]] = {
    "items-of-others": _items_of_others,
    "finish-without-token": _finish_without_token,
    "same-token-for-all": _same_token_for_all,
    "claim-without-lock": _claim_without_lock,
    "claim-without-lease": _claim_without_lease,
    "same-attempt-again": _same_attempt_again,
    "looks-ahead-only": _looks_ahead_only,
    "no-taking-back": _no_taking_back,
    "two-clocks": _two_clocks,
    "outcome-dropped": _outcome_dropped,
    "lost-reply-believed": _lost_reply_believed,
    "doubt-is-failure": _doubt_is_failure,
    "text-as-it-is": _text_as_it_is,
    "swept-by-age": _swept_by_age,
    "one-witness": _one_witness,
    "nobody-sweeps": _nobody_sweeps,
    "heartbeat-on-the-loop": _heartbeat_on_the_loop,
    "crash-is-a-failure": _crash_is_a_failure,
    "crash-is-free": _crash_is_free,
    "dead-pool-forgotten": _dead_pool_forgotten,
    "pools-outlive": _pools_outlive,
    "no-deadline": _no_deadline,
    "suspects-among-others": _suspects_among_others,
    "never-told": _never_told,
    "told-at-the-claim": _told_at_the_claim,
    "crash-untold": _crash_untold,
    "waiters-forgotten": _waiters_forgotten,
    "guest-without-token": _guest_without_token,
    "guest-always-counts": _guest_always_counts,
    "guest-without-lease": _guest_without_lease,
    "dead-guest-kept": _dead_guest_kept,
    "cancelling-and-over": _cancelling_and_over,
    "cancelling-goes-on": _cancelling_goes_on,
    "cancel-unheard": _cancel_unheard,
    "events-afterwards": _events_afterwards,
    "going-on-unnoted": _going_on_unnoted,
    "file-without-token": _file_without_token,
    "piece-twice": _piece_twice,
    "drafts-for-ever": _drafts_for_ever,
    "going-on-untold": _going_on_untold,
    "url-untold": _url_untold,
    "told-twice": _told_twice,
    "told-in-disorder": _told_in_disorder,
    "gone-goes-on": _gone_goes_on,
    "counted-before-the-lock": _counted_before_the_lock,
    "one-snapshot": _one_snapshot,
    "turnstile-left-out": _turnstile_left_out,
    "follows-across-lanes": _follows_across_lanes,
    "turn-without-end": _turn_without_end,
    "token-unspent": _token_unspent,
    "no-ring-at-requeue": _no_ring_at_requeue,
    "no-ring-at-cancel": _no_ring_at_cancel,
    "no-ring-at-a-rule": _no_ring_at_a_rule,
    "cancelling-holds-nothing": _cancelling_holds_nothing,
}

IN_DATABASE: dict[str, tuple[tuple[str, str, str], ...]] = {
    "claim-without-lock": (("pushq.lock_ordinary", "for no key update skip locked", ""),),
    "claim-without-lease": (
        (
            (
                "pushq.lock_claimable("
                "text[], text[], text, int, timestamptz, timestamptz, int, boolean, text[], text[], int[])"
            ),
            "live.lease_until > now()",
            "true",
        ),
    ),
    "finish-without-token": (
        (
            "pushq.end_sorted",
            "coalesce(end_sorted.tokens[width_bucket(job.id, end_sorted.ids)], job.token)",
            "job.token",
        ),
    ),
    "same-attempt-again": (
        (
            "pushq.hand_out",
            "job.attempt + (job.attempt < 2147483647)::int",
            "greatest(job.attempt, 1)",
        ),
    ),
    "suspects-among-others": (("pushq.lock_ordinary", "job.apart is null", "job.crashes < 3"),),
    "told-at-the-claim": (
        (
            "pushq.hand_out",
            "    if cardinality(hand_out.noted) > 0 then\n",
            (
                "    perform pushq.tell(array_agg(job.id || ' succeeded ' || array_to_string(job.waiters, ' ')))\n"
                "    from pushq.jobs_unfinished as job\n"
                "    where job.id = any(hand_out.ids) and job.waiters is not null;\n"
                "    if cardinality(hand_out.noted) > 0 then\n"
            ),
        ),
    ),
    "crash-untold": (
        (
            "pushq.end_jobs",
            "perform pushq.tell(end_of_all.told);",
            "if not 'crashed' = any(end_jobs.kinds) then perform pushq.tell(end_of_all.told); end if;",
        ),
    ),
    "waiters-forgotten": (("pushq.give_back", "set status = 'queued',", "set status = 'queued', waiters = null,"),),
    "guest-without-token": (
        (
            "pushq.finish",
            "array[finish.token]",
            "array[(select its.token from pushq.jobs_unfinished as its where its.id = finish.id)]",
        ),
    ),
    "guest-always-counts": (("pushq.finish", "return has_counted;", "return true;"),),
    "guest-without-lease": (
        ("pushq.renew_guest", "clock_timestamp() + renew_guest.lease)", "clock_timestamp())"),
        ("pushq.renew_guest", "greatest(host.lease_until, clock_timestamp() + excluded.lease)", "clock_timestamp()"),
    ),
    "cancelling-and-over": (
        (
            "pushq.cancel",
            "        return 'cancelling';\n",
            (
                "        perform pushq.end_jobs(\n"
                "            array[cancel.id], array[null::uuid], null, null, '{cancelled}', null, null, null);\n"
                "        return 'cancelling';\n"
            ),
        ),
    ),
    "cancelling-goes-on": (("pushq.give_back", "where going_on.apart = 'cancelling'", "where false"),),
    "going-on-unnoted": (
        (
            "pushq.give_back",
            "where going_on.kind = 'retried' or pushq.is_noted(going_on.queue, going_on.task, going_on.tenant_id)",
            "where false",
        ),
    ),
    "file-without-token": (
        ("pushq.complete_artifact", "    and job.token = complete_artifact.token\n    for share;", "    ;"),
    ),
    "piece-twice": (
        (
            "pushq.append_artifact",
            "        return its.size;\n    elsif",
            (
                "        insert into pushq.artifact_pieces (artifact_id, place, data, day)\n"
                "        values (its.id, its.pieces, append_artifact.data, its.day)\n"
                "        on conflict do nothing;\n"
                "        return its.size;\n    elsif"
            ),
        ),
    ),
    "drafts-for-ever": (("pushq.forget_drafts", "where not job.is_held", "where false"),),
    "going-on-untold": (
        (
            "pushq.note_changes",
            "nullif(event.became, event.was) as told",
            "nullif(event.became, case event.was when 'running' then 'queued' else event.was end) as told",
        ),
    ),
    "url-untold": (("pushq.end_sorted", "perform pushq.deliver_to_urls(to_urls);", "null;"),),
    "told-twice": (
        (
            "pushq.deliver",
            "pushq.webhooks_of(job.queue, job.task, job.tenant_id) as hook\n",
            (
                "pushq.webhooks_of(job.queue, job.task, job.tenant_id) as hook\n"
                "    cross join generate_series(1, 2) as time\n"
            ),
        ),
        ("pushq.deliver", "lpad(given.number::text, 19, '0')", "lpad(given.number::text, 19, '0') || time"),
    ),
    "told-in-disorder": (("pushq.deliver", "pushq.deliveries_of(job.id,", "pushq.deliveries_of(gen_random_uuid(),"),),
    "gone-goes-on": (
        (
            "pushq.copy_noted_queues",
            "    with noted as materialized (",
            (
                "    if pg_trigger_depth() = 1 then\n"
                "        update pushq.webhooks set paused_at = null where paused_at is not null;\n"
                "    end if;\n"
                "    with noted as materialized ("
            ),
        ),
    ),
    "counted-before-the-lock": (
        (
            "pushq.lock_fitting",
            "    if names is not null and",
            (
                "    chosen := pushq.choose_fitting(lock_fitting.ids, lock_fitting.most, lock_fitting.most_holding);\n"
                "    if names is not null and"
            ),
        ),
        (
            "pushq.lock_fitting",
            "        pushq.choose_fitting(lock_fitting.ids, lock_fitting.most, lock_fitting.most_holding), ",
            "        chosen, ",
        ),
    ),
    "one-snapshot": (
        ("pushq.held", "LANGUAGE plpgsql\n", "LANGUAGE plpgsql\n STABLE\n"),
        ("pushq.free", "LANGUAGE plpgsql\n", "LANGUAGE plpgsql\n STABLE\n"),
        ("pushq.choose_fitting", "LANGUAGE plpgsql\n", "LANGUAGE plpgsql\n STABLE\n"),
        ("pushq.lock_fitting", "and not pushq.lock_turnstiles(names) then", "and false then"),
        (
            "pushq.lock_fitting",
            "        pushq.choose_fitting(lock_fitting.ids, lock_fitting.most, lock_fitting.most_holding), ",
            (
                "        case when pushq.lock_turnstiles(names) then"
                " pushq.choose_fitting(lock_fitting.ids, lock_fitting.most, lock_fitting.most_holding) end, "
            ),
        ),
    ),
    "turnstile-left-out": (
        (
            "pushq.lock_turnstiles",
            "unnest(lock_turnstiles.names) as name",
            "unnest(lock_turnstiles.names) as name where name <> 'scene.closed'",
        ),
    ),
    "follows-across-lanes": (("pushq.follow", "and job.lane = ended.lane", ""),),
    "token-unspent": (("pushq.lock_fitting", "if has_rates then", "if false then"),),
    "no-ring-at-cancel": (("pushq.end_jobs", "if before.gave_units then", "if false then"),),
    "no-ring-at-a-rule": (("pushq.note_rules", "perform pushq.ring_bell('');", ""),),
    "cancelling-holds-nothing": (
        (
            "pushq.held",
            "job.status = 'running' and job.needs is not null",
            "job.status = 'running' and job.needs is not null and job.apart is distinct from 'cancelling'",
        ),
    ),
}
"""What of a bug stands in functions of the database: function, what stands there, what is to stand there instead."""
