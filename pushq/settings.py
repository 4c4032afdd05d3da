"""Settings: flags, PUSHQ_* variables and `.env`. The only home of defaults."""

from __future__ import annotations

import difflib
import os
import re
import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, NoDecode, SettingsConfigDict

from pushq.errors import SettingsError

TEN_YEARS = 10 * 365 * 86400.0

Seconds = Annotated[float, Field(gt=0, le=TEN_YEARS, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=TEN_YEARS, allow_inf_nan=False)]
AnyCase = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)


class Settings(BaseSettings):
    """The settings of a command. Durations are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="PUSHQ_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = Field(
        None, description="The queue's database; else DATABASE_URL, else libpq's PG* variables."
    )
    listen_database_url: SecretStr | None = Field(
        None, description="A direct connection to the same database, if database_url goes through a transaction pooler."
    )
    queues: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        None, description="Queues to serve; else `default` and the queue of every registered task."
    )
    concurrency: int = Field(
        10, ge=1, le=10_000, description="Workers in each pool: how many jobs a pool runs at a time."
    )
    processes: int = Field(1, ge=1, le=256, description="Pools of the supervisor, each a process of its own.")
    poll_interval: SecondsOrZero = Field(
        30.0, description="How often an idle pool looks for jobs without a notification; 0: never."
    )
    wake: Annotated[Literal["notify", "poll"], AnyCase] = Field(
        "notify", description="Whether pools listen for notifications, or only poll."
    )
    heartbeat_interval: Seconds = Field(10.0, description="How often a supervisor sends a heartbeat.")
    lease: Seconds = Field(30.0, description="How long a supervisor without a heartbeat keeps its jobs.")
    shutdown_timeout: SecondsOrZero = Field(25.0, description="How long running jobs may take after SIGTERM or SIGINT.")
    sweep_interval: Seconds = Field(
        15.0, description="How often a supervisor looks after the jobs of dead supervisors, partitions and history."
    )
    http_host: str = Field("127.0.0.1", description="The address of /metrics, /healthz and /readyz.")
    http_port: int = Field(
        9464, ge=0, le=65535, description="The port of /metrics, /healthz and /readyz; 0: any free port."
    )
    http_token: SecretStr | None = Field(
        None, description="The bearer token of /metrics. Without a token, /metrics is served to this machine alone."
    )
    log_format: Annotated[Literal["console", "json"], AnyCase] = Field(
        "console", description="The format of events on standard error: text, or one JSON object a line."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = Field(
        "info", description="The quietest level written."
    )
    log_errors: Annotated[Literal["brief", "full"], AnyCase] = Field(
        "brief", description="A job's error in the log: type and place (brief), or message and traceback too (full)."
    )
    webhooks: int = Field(20, ge=0, le=1000, description="How many webhooks a supervisor delivers at once; 0: none.")
    webhook_allow: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        None, description="Networks to which webhooks may be sent though they are not public, as 10.1.0.0/16."
    )
    retention: Seconds = Field(
        604800.0, description="How long finished jobs are kept, to the day, if their queue says nothing else."
    )
    artifact_bytes: int = Field(
        100 * 1024 * 1024, ge=0, le=2**40, description="The largest artifact that a handler may write, in bytes."
    )
    artifacts_per_job: int = Field(1000, ge=0, le=100_000, description="How many artifacts a job may have.")
    artifact_bytes_per_day: int = Field(
        1024**3, ge=0, le=2**50, description="How many bytes of artifacts the jobs of one tenant_id may write in a day."
    )

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """Settings from flags, the environment and `.env`. The first source that sets a value wins.

        A flag that is None or empty counts as unset. Raises SettingsError for a value that cannot be used, and for an
        unknown PUSHQ_ variable.
        """
        given = {name: value for name, value in flags.items() if value not in (None, ())}
        try:
            with _env_file() as file:
                variables = _variables(file)
                _refuse_unknown(variables)
                if not variables.get("PUSHQ_DATABASE_URL"):
                    given.setdefault("database_url", variables.get("DATABASE_URL") or None)
                return cls(_env_file=file, **given)
        except ValidationError as error:
            raise SettingsError(_sentence(error)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"The file .env cannot be read: {error}.") from None

    @property
    def url(self) -> str | None:
        return self.database_url.get_secret_value() if self.database_url else None

    @property
    def listen_url(self) -> str | None:
        return self.listen_database_url.get_secret_value() if self.listen_database_url else self.url

    @field_validator("queues", mode="before")
    @classmethod
    def _split(cls, value: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        names = value.split(",") if isinstance(value, str) else value or ()
        queues = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
        if any(len(queue) > 200 for queue in queues):
            raise ValueError("has a queue whose name is longer than 200 characters")
        return queues or None

    @field_validator("webhook_allow", mode="before")
    @classmethod
    def _networks(cls, value: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        texts = value.split(",") if isinstance(value, str) else value or ()
        return tuple(_network(text.strip()) for text in texts if text.strip()) or None

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.lease < 3 * self.heartbeat_interval * (1 - 1e-9):  # three times 0.2 is 0.6, but not for floats
            raise ValueError(
                f"PUSHQ_LEASE={self.lease:g} cannot be used: it must be at least three times "
                f"PUSHQ_HEARTBEAT_INTERVAL={self.heartbeat_interval:g}, so that a lost heartbeat costs no job."
            )
        if self.wake == "poll" and self.poll_interval == 0:
            raise ValueError(
                "PUSHQ_WAKE=poll cannot be used with PUSHQ_POLL_INTERVAL=0, which never polls: give it an interval."
            )
        return self


SECRETS = frozenset(
    f"PUSHQ_{name.upper()}" for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)
)
"""The variables that hold passwords and tokens."""

# Variables of the embedded server and the tests, not settings.
_ELSEWHERE = re.compile(r"PUSHQ_PG_BINDIR|PUSHQ_TEST_\w+")

# Variables that Kubernetes sets in every container beside a Service whose name begins with "pushq".
_SERVICE_LINK = re.compile(r"PUSHQ_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")


_PIPE_PATIENCE = 5.0
"""Seconds without a byte after which reading a pipe `.env` fails."""


@contextmanager
def _env_file() -> Iterator[str | None]:
    """The path of `.env`. A pipe can be read only once, so its content is copied to memory. None: there is no file."""
    path = Path(".env")
    if not path.is_fifo():
        yield str(path) if path.is_file() else None
        return
    with open(os.memfd_create("env"), "wb", buffering=0) as copy:  # noqa: PTH123 - a descriptor has no path
        copy.write(_poured_out(path))
        yield f"/proc/self/fd/{copy.fileno()}"


def _poured_out(path: Path) -> bytes:
    """The content of a pipe, until its writer closes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    parts: list[bytes] = []
    try:
        while select.select([descriptor], [], [], _PIPE_PATIENCE)[0]:
            if not (part := os.read(descriptor, 65536)):
                return b"".join(parts)
            parts.append(part)
    finally:
        os.close(descriptor)
    raise SettingsError(f"The file .env is a pipe, into which nobody has written for {_PIPE_PATIENCE:g} s.")


def _variables(file: str | None) -> dict[str, str]:
    """Every variable by its name in capitals. The environment overrides `.env`."""
    written = DotEnvSettingsSource(Settings, env_file=file).env_vars
    return {name.upper(): value or "" for name, value in [*written.items(), *os.environ.items()]}


def _refuse_unknown(variables: Mapping[str, str]) -> None:
    known = {f"PUSHQ_{field.upper()}" for field in Settings.model_fields}
    for name, value in sorted(variables.items()):
        if name.startswith("PUSHQ_") and name not in known and not _is_none_of_ours(name, value):
            meant = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {meant[0]}?" if meant else "'pushq supervise --help' lists the settings."
            raise SettingsError(f"There is no setting {name}; {hint}")


def _is_none_of_ours(name: str, value: str) -> bool:
    is_link = name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))
    return is_link or bool(_ELSEWHERE.fullmatch(name) or _SERVICE_LINK.fullmatch(name))


def _sentence(error: ValidationError) -> str:
    """The first fault, with the value unless the value is secret."""
    fault = error.errors(include_url=False)[0]
    reason = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not fault["loc"]:
        return reason
    field = str(fault["loc"][0])
    value = "" if f"PUSHQ_{field.upper()}" in SECRETS else f"={fault['input']}"
    if fault["type"] == "float_parsing":  # only durations are floats
        reason = f"should be seconds, as a plain number: {_in_seconds(str(fault['input']))}"
    if fault["type"].startswith("int_"):
        reason = "should be a whole number"
    return f"PUSHQ_{field.upper()}{value} cannot be used: it {reason[0].lower() + reason[1:]}."


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        hint = "has bits of a host" if "host bits" in str(error) else "is no network"
        raise ValueError(f"has {text}, which {hint}; write networks as 10.1.0.0/16, separated by commas") from None


_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\w*\s*")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _in_seconds(text: str) -> str:
    """The duration that the user may have meant, else an example."""
    match = _DURATION.fullmatch(text.lower())
    return f"{float(match[1]) * _UNITS[match[2]]:g}" if match else "30 or 0.5"
