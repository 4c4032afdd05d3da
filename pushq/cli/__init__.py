"""The command line: composes settings, tasks, supervisor, exporter and store; the logic is theirs."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

import click

from pushq import __version__
from pushq.cli.bench import bench
from pushq.cli.demo import demo
from pushq.cli.jobs import enqueue, jobs
from pushq.cli.migrate import migrate
from pushq.cli.queues import queues
from pushq.cli.supervise import exporter, supervise, sweep
from pushq.errors import PushqError, UsageError


class _Commands(click.Group):
    """Turns what pushq raises into a sentence and an exit code: 2 for the user's mistake, 1 for a failure."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except PushqError as error:
            click.echo(f"pushq: {error}", err=True)
            sys.exit(2 if isinstance(error, UsageError) else 1)
        except BrokenPipeError:  # `pushq jobs | head`: the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
            sys.exit(0)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pushq")
def cli() -> None:
    """Runs jobs that any program inserts into a PostgreSQL table, the moment they are committed.

    \b
      pushq migrate                        prepare the database of PUSHQ_DATABASE_URL
      pushq supervise app.jobs:tasks       run jobs
      psql -c "insert into pushq.jobs (task, payload) values ('mail.welcome', '{\\"user_id\\": 42}')"
      pushq jobs                           see what became of it
      pushq demo                           see it all at work, without a database of your own
      pushq bench                          see how fast it is on this machine, and by what limit
    """


for command in (migrate, supervise, demo, enqueue, jobs, queues, exporter, sweep, bench):
    cli.add_command(command)


def main() -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a row may hold what the terminal's encoding has not
    cli(prog_name="pushq")
