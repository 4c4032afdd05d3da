"""Bugs to be found: each takes one step out of pushq's argument, in the pool's process alone.

A torture that has never found anything proves nothing. These are what it must find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from pushq.database.statements import statement
from pushq.pool.doorbell import Doorbell
from pushq.pool.store import Store


def plant(name: str) -> None:
    BUGS[name]()


def _no_passers() -> None:
    """Waits for nobody who skipped the bell and has not committed yet."""

    async def gate_passers(_: Store, __: list[str] | None = None) -> list[str]:
        return []

    _replace(Store, "gate_passers", gate_passers)


def _passers_before_opening() -> None:
    """Notes the passers, then opens: who begins to write in between skips the bell and is not waited for."""
    note, open_gate = Store.gate_passers, Store.open_gate
    noted: list[str] = []

    async def open_late(store: Store, queues: Sequence[str], milliseconds: int) -> bool:
        noted[:] = await note(store)
        return await open_gate(store, queues, milliseconds)

    async def recall(store: Store, among: list[str] | None = None) -> list[str]:
        return list(noted) if among is None else await note(store, among)

    _replace(Store, "open_gate", open_late)
    _replace(Store, "gate_passers", recall)


def _no_claim_after_opening() -> None:
    """Opens when it has looked for the last time, and sleeps."""
    open_gate, wait_rung = Store.open_gate, Doorbell.wait_rung
    put_off: list[tuple[Store, Sequence[str], int]] = []

    async def put_off_opening(store: Store, queues: Sequence[str], milliseconds: int) -> bool:
        put_off[:] = [(store, queues, milliseconds)]
        return True

    async def open_and_wait(doorbell: Doorbell) -> None:
        if put_off:
            with anyio.CancelScope(shield=True):
                await open_gate(*put_off.pop())
        await wait_rung(doorbell)

    _replace(Store, "open_gate", put_off_opening)
    _replace(Doorbell, "wait_rung", open_and_wait)


def _shuts_without_ringing() -> None:
    """Shuts the gates for all, and tells nobody."""
    silent = statement("gate_shut").replace("pushq.ring_bell('')", "true")

    async def shut_gate(store: Store, queues: Sequence[str]) -> None:
        await store._session.fetch(silent, list(queues))

    _replace(Store, "shut_gate", shut_gate)


def _forgetful_doorbell() -> None:
    """Forgets a ring that comes while the pool is awake."""

    async def wait_rung(doorbell: Doorbell) -> None:
        doorbell._rung = anyio.Event()
        await doorbell._rung.wait()

    _replace(Doorbell, "wait_rung", wait_rung)


def _replace(owner: type, name: str, function: Callable[..., object]) -> None:
    assert hasattr(owner, name), f"{owner.__name__}.{name} is no more: plant this bug elsewhere"
    setattr(owner, name, function)


BUGS: dict[str, Callable[[], None]] = {
    "no-passers": _no_passers,
    "passers-before-opening": _passers_before_opening,
    "no-claim-after-opening": _no_claim_after_opening,
    "shuts-without-ringing": _shuts_without_ringing,
    "forgetful-doorbell": _forgetful_doorbell,
}
