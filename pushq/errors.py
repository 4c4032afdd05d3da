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


class SchemaError(PushqError):
    """The database's schema is not the one that this program needs: somebody may be about to migrate it."""


class PayloadError(PushqError):
    """A payload that does not fit its task's arguments; names the field, never shows the value."""


class ScopeLeftOpen(PushqError):
    """A handler has left a cancel scope open in the task that it ran in, and it was cancelled there."""

    def __init__(self) -> None:
        super().__init__("a handler has left a cancel scope open, and it was cancelled; enter it by a `with`")


class ResultError(PushqError):
    """A handler returned what cannot be stored as JSON."""


class DatabaseAway(PushqError):
    """The database did not answer, or answered that it cannot serve now: wait and try again."""


class StatementUndone(DatabaseAway):
    """The database is there, and has undone a statement: somebody holds a lock, or it took too long. Try it again."""


class DatabaseRefused(PushqError):
    """The database answered, and it will not have us: wrong password, unknown database, missing right."""


class ValueRefused(PushqError):
    """The database will not store a value that it was given."""
