"""The transactions of transactional handlers: begun when a handler asks, ended together with its job.

Theory of operation. The handler's writes and the end of its job are in one transaction, so the database has both or
neither. The job's row is locked by the statement that ends the job, the last before the commit: as long as the handler
runs, nobody waits for it. The statement changes the row only under the token of the claim. If the job was taken away
meanwhile, the statement ends nothing, and all that the handler has written is rolled back.

    the handler                           the transaction    the outcome
    ────────────────────────────────────────────────────────────────────────────────────────────────
    never asks for the connection         there is none      written with those of others, as usual
    returns                               ends the job       committed with what the handler has written
    raises, also Retry and Cancel         is rolled back     written with those of others
    times out, is recalled, is stopped    is rolled back     written with those of others
    dies                                  is rolled back     the crash is charged, as usual

    at the end                            the transaction    the outcome
    ────────────────────────────────────────────────────────────────────────────────────────────────
    the job is not held any more          is rolled back     refused, as one that comes too late
    the database refuses                  is rolled back     as if the handler had raised the database's error
    no answer before the commit is asked  cannot commit      the job is given back, at no charge
    no answer to the commit               is in doubt        found out under the token, see below

To find out, the pool gives the job back under its token, which waits for the lock of the transaction in doubt. If that
is accepted, the transaction was rolled back. If not, the job is asked for as finished under the token, and was
committed. So a job whose commit was carried out never runs again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import anyio

from pushq.database.lending import Lender, Lent, ended_by_handler
from pushq.database.patience import trouble, wait_out
from pushq.errors import (
    DatabaseRefused,
    DatabaseTrouble,
    PushqError,
    ResultError,
    StatementRolledBack,
    TransactionBroken,
)
from pushq.events import JobsEnded, OutcomeRefused, publish
from pushq.job import Job
from pushq.outcome import Kind, Outcome, Raised, decide, failed, released
from pushq.pool.store import Lanes, Store
from pushq.recalled import recalled
from pushq.retries import Retries
from pushq.transactions import transactions

Stoppable: TypeAlias = Callable[[], AbstractContextManager[anyio.CancelScope]]
"""A scope that is cancelled when the pool stops."""

FIND_OUT_AGAIN = 0.5
"""Seconds between two tries to find out whether a transaction was committed."""
UNCHANGED = "The database has left the job's row unchanged, as a trigger of yours may; nothing was committed."
NO_RIGHT = "A handler that has changed its role changes it back before it returns: `reset role`."
DETACHED = "a transactional handler that has used its connection cannot return Detach"


class Transactions:
    """store: writes ends, on lent connections, and rings. apart: asks what has become of jobs.

    lanes: None until the pool has made its parts.
    """

    def __init__(self, lender: Lender, store: Store, apart: Store) -> None:
        self.lender = lender
        self.store = store
        self.apart = apart
        self.lanes: Lanes | None = None

    def of(self, job: Job, stoppable: Stoppable) -> Transaction:
        return Transaction(self, job, stoppable)


class Transaction:
    """The transaction of one attempt, from before the handler is called until the outcome is settled."""

    def __init__(self, its: Transactions, job: Job, stoppable: Stoppable) -> None:
        self._its = its
        self._job = job
        self._stoppable = stoppable
        self._turn = asyncio.Lock()
        self._lent: Lent | None = None
        self._is_over = False
        transactions[job.fence] = self._begin

    async def end(self, outcome: Outcome, retries: Retries) -> Outcome:
        """The handler has ended. Returns the outcome: written if that is settled, else as it is to be written."""
        self._forget()
        if not self._lent:
            return outcome
        if outcome.kind is Kind.DETACHED:
            return _after(outcome, failed(self._job, ResultError(DETACHED)))
        if outcome.kind is not Kind.SUCCEEDED or self._job.fence in recalled:
            return outcome
        return await self._end(self._lent, outcome, retries)

    async def close(self) -> None:
        """Rolls back what was not committed, and gives the connection back."""
        self._forget()
        lent, self._lent = self._lent, None
        if lent:
            await lent.roll_back()
            self._its.lender.give_back(lent)

    async def _begin(self) -> Any:
        async with self._turn:
            if not self._lent and not self._is_over:
                lent = await self._its.lender.begin()
                if self._is_over:  # the handler has left a task behind, which asked
                    await lent.roll_back()
                    self._its.lender.give_back(lent)
                else:
                    self._lent = lent
            if not self._lent:
                raise PushqError(f"Job {self._job.id} has no connection any more: its handler has ended.")
            return self._lent.connection

    def _forget(self) -> None:
        self._is_over = True
        transactions.pop(self._job.fence, None)

    async def _end(self, lent: Lent, outcome: Outcome, retries: Retries) -> Outcome:
        try:
            row = await self._its.store.end_in_transaction(lent, outcome)
            if not row["is_whole"]:
                raise ended_by_handler()
        except TransactionBroken as error:
            return _after(outcome, decide(self._job, Raised(error), retries))
        except DatabaseTrouble as error:
            if error.state:
                return _after(outcome, decide(self._job, Raised(_said(error)), retries))
            publish(trouble(error))
            return released(self._job)
        if not row["is_accepted"]:
            await self.close()
            return await self._refused(outcome, retries)
        try:
            await lent.commit()
        except DatabaseTrouble as error:
            await self.close()
            return await self._find_out(outcome, row, error, retries)
        self._lent = None
        self._its.lender.give_back(lent, is_as_new=not row["has_temporary"])
        return await self._ended(outcome, row)

    async def _find_out(self, outcome: Outcome, row: Any, error: DatabaseTrouble, retries: Retries) -> Outcome:
        """What has become of the transaction, of whose commit there was no answer, or an error."""
        publish(trouble(error))
        back = released(self._job)
        with self._stoppable():
            if await wait_out(lambda: self._is_finished(outcome, unless=None if error.state else back)):
                return await self._ended(outcome, row)
            if error.state:
                return _after(outcome, decide(self._job, Raised(_said(error)), retries))
            back.is_written = True
        return back

    async def _is_finished(self, outcome: Outcome, unless: Outcome | None) -> bool:
        """Whether the job is finished under the token. If not, and if `unless` is given, that is written."""
        apart = self._its.apart
        if await apart.finished_with_token([outcome]):
            return True
        if unless is None or not await apart.finish([unless]):
            return False
        return bool(await apart.finished_with_token([outcome]))

    async def _refused(self, outcome: Outcome, retries: Retries) -> Outcome:
        """The job is not held under the token, or its row was not let go. Nothing was committed."""
        await self._let_units_go(outcome, are_given=False)
        with self._stoppable():
            if await wait_out(lambda: self._its.apart.still_held([outcome])):
                return _after(outcome, decide(self._job, Raised(StatementRolledBack(UNCHANGED)), retries))
            if self._job.fence not in recalled:
                publish(OutcomeRefused(self._job.id, self._job.task, outcome.kind))
            outcome.is_written = True
            return outcome
        return released(self._job)

    async def _ended(self, outcome: Outcome, row: Any) -> Outcome:
        """The commit has been carried out."""
        outcome.is_written = True
        publish(JobsEnded([outcome]))
        if row["told"]:
            self._its.store.tell_soon(row["told"])
        await self._let_units_go(outcome, are_given=row["gave_units"])
        return outcome

    async def _let_units_go(self, outcome: Outcome, *, are_given: bool) -> None:
        """Whoever waits for the units of the job is to look. The next of the lane does not follow in its place."""
        if self._its.lanes and self._job.extras and self._job.lane:
            are_given |= self._its.lanes.settle([outcome], [])
        if are_given:
            await self._its.store.let_others_look()


def _after(ended: Outcome, outcome: Outcome) -> Outcome:
    """The outcome in place of the one with which the handler has ended."""
    outcome.began, outcome.ended, outcome.progress = ended.began, ended.ended, ended.progress
    return outcome


def _said(error: DatabaseTrouble) -> BaseException:
    """The driver's error, which is what the handler would have met; of a missing right, with a hint."""
    said = error.__cause__ or error.__context__ or error
    if isinstance(error, DatabaseRefused) and error.is_for_a_right:
        said.add_note(NO_RIGHT)
    return said.with_traceback(None)  # the frames are pushq's and the driver's
