"""The exceptions of pushq. Each message is a sentence that names the value and the remedy."""

from __future__ import annotations

from uuid import UUID


class PushqError(Exception):
    """The base of all exceptions that pushq raises on purpose.

    job_id: the job of a `Queue.run` or `Queue.wait` that raised, as soon as the job has an id; else None.
    """

    job_id: UUID | None = None


class UsageError(PushqError):
    """A mistake of the user, which the same command would repeat. The command ends with exit code 2.

    Errors that may pass by themselves, or by somebody else's work, are other PushqErrors, and end with exit code 1.
    Either way, the command prints the sentence, without a traceback.
    """


class SettingsError(UsageError):
    """A setting cannot be used, whether from the environment, a file or a flag."""


class TasksError(UsageError):
    """A registry of tasks cannot be used: not found, not importable, a name twice."""


class TasksRaised(PushqError):
    """The module of a registry raised on import. The reason may pass, for example a service that is away."""


class LifespanRaised(TasksRaised):
    """The lifespan of a registry raised: on entry, on exit or in between."""


class SchemaError(PushqError):
    """The database's schema does not fit this program. A migration may be about to come."""


class RowsHidden(SchemaError):
    """Row-level security hides pushq's tables from this role."""


class ScheduleError(UsageError):
    """The times of a schedule cannot be read: a cron expression, a zone or an interval."""


class PayloadError(PushqError):
    """A payload does not fit the task's arguments. The message names the field, and never shows the value."""


class UnusableConnection(PushqError):
    """What `Queue` was given is no connection that can insert a job: another driver's, something else, or closed."""


class JobUnknown(PushqError):
    """Nobody may wait for the job: there is none with the id, or it cannot be seen."""


class ArtifactRefused(PushqError):
    """An artifact was not written: its name, a limit, a second of the same attempt, or a job that is no longer held."""


class NotSaved(PushqError):
    """A file cannot be written: the disk is full, a folder has the name, or a right is missing."""


class ArtifactUnknown(PushqError):
    """There is no such artifact, or it cannot be seen, or was replaced or deleted while it was read."""


class KeyTaken(PushqError):
    """A job was not inserted: an unfinished job has the same unique_key or id."""


class WaitTimeout(PushqError, TimeoutError):
    """A job was not finished in time. The message tells what the job is doing. The job, `job_id`, goes on."""


class ResultError(PushqError):
    """A handler returned a value that cannot be stored as JSON, or a stored result cannot be decoded."""


class TransactionBroken(PushqError):
    """A transactional handler returned, and its transaction could not be committed, for a reason of the handler's.

    The handler has ended or aborted the transaction, closed the connection, or let the database close the connection.
    """


class Undelivered(PushqError):
    """A webhook was not delivered. The next attempt may succeed."""


class NoAnswer(Undelivered):
    """A receiver did not answer in time, or not in HTTP, or its certificate is not valid."""


class NotAccepted(Undelivered):
    """A receiver answered with another status than 2xx.

    headers: `Retry-After`, if the receiver asks for a delay.
    """

    def __init__(self, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.headers = {} if retry_after is None else {"Retry-After": retry_after}


class SecretUnusable(Undelivered):
    """A secret cannot sign. The message never shows the secret."""


class Undeliverable(Undelivered):
    """A webhook was not delivered, and no attempt may deliver it as things stand."""


class UrlRefused(Undeliverable):
    """A receiver's URL cannot be used. The message never shows the URL, which may hold a secret."""


class AddressRefused(Undeliverable):
    """A receiver's name leads to an address to which no webhook is sent."""


class ReceiverGone(Undeliverable):
    """A receiver answered 410: its subscription is paused."""


class SubscriptionPaused(Undeliverable):
    """The subscription was paused before the delivery. Resume the subscription, and replay the delivery."""


class DatabaseTrouble(PushqError):
    """The database has not carried out a request.

    state: the SQLSTATE, if the server has answered a statement and the connection lives on; else empty.
    """

    def __init__(self, message: str, state: str = "") -> None:
        super().__init__(message)
        self.state = state


class DatabaseAway(DatabaseTrouble):
    """The database did not answer, or cannot serve now. Wait and try again."""


class StatementRolledBack(DatabaseAway):
    """The database has rolled back a statement, because of a lock or another session. Try again."""


class UnexpectedState(StatementRolledBack):
    """The database has rolled back a statement for a reason that may last, and may concern a single row.

    Examples: a foreign trigger, rule or constraint, a timeout, a broken page. Any SQLSTATE without a class of its own
    counts.
    """

    @property
    def is_timeout(self) -> bool:
        """Whether the statement took too long, or was cancelled. The next try may succeed."""
        return self.state == "57014"


class ValueRefused(UnexpectedState):
    """The database refuses to store a value: the given value, or the value that a trigger made of it."""


class DatabaseRefused(DatabaseTrouble):
    """The database refuses this login: wrong password, unknown database, missing right."""

    @property
    def is_for_a_right(self) -> bool:
        """Whether the role lacks a right, which `pushq doctor` names."""
        return self.state == "42501"
