"""The command line: composes settings, tasks, supervisor, exporter and store, and holds no logic."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

import click

import pushq
from pushq.errors import DatabaseRefused, PushqError, UsageError
from pushq.exporter.lines import printable
from pushq.local.imports import garbage_left

# The module of each command, imported on use: a supervisor starts without the benchmark.
_MODULES = {
    "artifacts": "artifacts",
    "bench": "bench",
    "demo": "demo",
    "doctor": "doctor",
    "enqueue": "jobs",
    "events": "events",
    "exporter": "exporter",
    "jobs": "jobs",
    "limits": "limits",
    "migrate": "migrate",
    "queues": "queues",
    "schedules": "schedules",
    "supervise": "supervise",
    "supervisors": "supervisors",
    "sweep": "supervise",
    "webhooks": "webhooks",
}


_ELSEWHERE = {
    "supervise": ("consumer", "run", "serve", "start", "work", "worker"),
    "enqueue": ("add", "insert", "publish", "push", "send", "submit"),
    "migrate": ("init", "install", "schema", "setup", "upgrade"),
    "jobs": ("list", "ls", "show", "status"),
    "schedules": ("beat", "cron", "crons", "periodic", "recurring", "schedule"),
}
"""The names of commands in other queues."""
_URLS = ("--broker", "--database", "--database-url", "--db", "--db-url", "--dsn", "--postgres-url", "--url", "-d")
"""The names of options for the URL, which no command of pushq has."""


_TO_THE_DATABASE = ("events", "jobs", "limits", "queues", "schedules")
"""Commands whose arguments are values for the database, or none; `enqueue` refuses by the name of the option."""


class _Commands(click.Group):
    """Turns PushqErrors into a sentence and an exit code: 2 for mistakes of the user, 1 for states that may pass."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for arg in args if args and args[0] in _TO_THE_DATABASE else ():
            try:
                arg.encode()
            except UnicodeEncodeError:
                shown = arg.encode(errors="surrogateescape").decode(errors="backslashreplace")
                ctx.fail(
                    f"The argument '{printable(shown)}' is not UTF-8, which the database takes; write it in UTF-8."
                )
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in _MODULES:
            return None
        with garbage_left():
            command = getattr(import_module(f"pushq.cli.{_MODULES[cmd_name]}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        for name, others in _ELSEWHERE.items():
            if args[0] in others:
                ctx.fail(f"No such command {args[0]!r}. Did you mean {name!r}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            _refuse_a_namesake()
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            if error.option_name not in _URLS:
                raise
            remedy = "Set PUSHQ_DATABASE_URL: whoever lists processes sees the options of a command."
            raise click.UsageError(f"No such option {error.option_name!r}. {remedy}", error.ctx) from None
        except PushqError as error:
            lacks_right = isinstance(error, DatabaseRefused) and error.is_for_a_right
            click.echo(f"pushq: {error}{' `pushq doctor` names the missing rights.' if lacks_right else ''}", err=True)
            sys.exit(2 if isinstance(error, UsageError) else 1)
        except BrokenPipeError:  # `pushq jobs | head`: the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
            sys.exit(0)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pushq-pg", prog_name="pushq")
def cli() -> None:
    """Runs jobs that any program inserts into a PostgreSQL table, the moment they are committed.

    \b
      pushq migrate                        prepare the database of PUSHQ_DATABASE_URL
      pushq supervise app.jobs:tasks       run jobs
      psql -c "insert into pushq.jobs (task, payload) values ('mail.welcome', '{\\"user_id\\": 42}')"
      pushq jobs                           see the jobs and their outcomes
      pushq artifacts save ID              save the files that a handler has left with its job
      pushq events                         see what happened to jobs, and who did it
      pushq schedules                      see what runs again and again, and when next
      pushq supervisors                    see who runs jobs
      pushq doctor                         see what hurts, and the remedy
      pushq demo                           see pushq at work, without a database of your own
      pushq bench                          measure pushq on this machine, and the limits
    """


for name in _MODULES:
    # A placeholder for the command to import, in the list and among the suggestions for a misspelt name.
    cli.add_command(click.Command(name))


def main() -> None:
    # A shell script starts `&` commands with SIGINT ignored. But a SIGINT sent to this command is meant.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # rows may hold characters unknown to the terminal
    _leave_a_closed_home()
    cli(prog_name="pushq")


def _refuse_a_namesake() -> None:
    """Raises UsageError where files of another package named pushq lie, or have lain, among ours."""
    site = Path(__file__).parents[2]
    namesakes = [*site.glob("pushq-*.dist-info")]
    if namesakes or "Tasks" not in getattr(pushq, "__all__", ()):
        raise UsageError(
            f"The distribution 'pushq' is somebody else's, and has written into the package of 'pushq-pg' in {site}. "
            "Run: pip uninstall -y pushq && pip install --force-reinstall --no-deps pushq-pg"
        )


def _leave_a_closed_home() -> None:
    """Unsets a HOME that this user may not enter, as after a change of user from root.

    asyncpg looks for passwords and certificates in HOME, and fails there. Without HOME, asyncpg looks in the user's own
    home, if any.
    """
    home = os.environ.get("HOME")
    if home and Path(home).exists() and not os.access(home, os.X_OK):
        del os.environ["HOME"]
