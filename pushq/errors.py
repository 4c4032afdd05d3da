"""What pushq raises: each message is a sentence that names the value and the remedy."""


class PushqError(Exception):
    """Anything that pushq raises on purpose."""


class UsageError(PushqError):
    """The user's mistake, which the same command would only repeat: it ends with exit code 2 and this sentence, no
    traceback. What may become well by itself, or by somebody else's doing, is no such error: it ends with 1."""


class SettingsError(UsageError):
    """A setting, from the environment, a file or a flag, that cannot be used."""


class TasksError(UsageError):
    """A registry of tasks that cannot be used: not found, not importable, a name twice."""


class TasksRaised(PushqError):
    """The module of a registry raises when it is imported, which may pass: it may have found a service away."""


class LifespanRaised(TasksRaised):
    """The lifespan of a registry raises: when it is entered or left, or in between."""


class SchemaError(PushqError):
    """The database's schema is not the one that this program needs: somebody may be about to migrate it."""


class PayloadError(PushqError):
    """A payload that does not fit its task's arguments; names the field, never shows the value."""


class UnusableConnection(PushqError):
    """What `Queue` was given is no connection that can insert a job: another driver's, something else, or closed."""


class ResultError(PushqError):
    """A handler returned what cannot be stored as JSON."""


class DatabaseTrouble(PushqError):
    """The database does not do what it was asked.

    state: the SQLSTATE, where the server has answered a statement and the connection lives on; else empty.
    """

    def __init__(self, message: str, state: str = "") -> None:
        super().__init__(message)
        self.state = state


class DatabaseAway(DatabaseTrouble):
    """The database did not answer, or answered that it cannot serve now: wait and try again."""


class StatementRolledBack(DatabaseAway):
    """The database is there, and has undone a statement: somebody holds a lock, or is in the way. Try it again."""


class UnexpectedState(StatementRolledBack):
    """A statement was undone for a reason that may last, and may be one row's alone.

    What a trigger, a rule or a constraint of somebody's says, a time that has run out, a broken page: whatever else
    PostgreSQL can say.
    """

    @property
    def is_timeout(self) -> bool:
        """Whether it took too long, or somebody has cancelled it: the next time may be another."""
        return self.state == "57014"


class ValueRefused(UnexpectedState):
    """The database will not store a value: one that it was given, or what somebody's trigger makes of it."""


class DatabaseRefused(DatabaseTrouble):
    """The database answered, and it will not have us: wrong password, unknown database, missing right."""
