"""What deploy/ hands to an operator fits the program, and the program speaks to systemd as the unit expects."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from configparser import RawConfigParser
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pushq.settings import Settings
from tests.support.proxy import proxied
from tests.support.supervisors import ROOT, supervising
from tests.support.waiting import wait_until

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "pushq.service"
PUSHQ = Path(sys.executable).with_name("pushq")


class Heard(list[str]):
    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening

    def wait_for(self, line: str, *, times: int = 1, within: float = 20) -> None:
        def look() -> bool:
            while True:
                try:
                    self.extend(self._listening.recv(4096).decode().splitlines())
                except BlockingIOError:
                    return self.count(line) >= times

        wait_until(look, within=within)


@contextmanager
def systemd() -> Iterator[tuple[str, Heard]]:
    """What systemd is to a service: the address that it listens on, and what it has heard so far."""
    with TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        address = f"{directory}/notify"
        listening.bind(address)
        listening.setblocking(False)
        yield address, Heard(listening)


# The program, as systemd sees it ------------------------------------------------------------------------------------


def test_systemd_is_told_of_readiness_of_life_and_of_the_end(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with systemd() as (address, heard):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        with supervising(database_url, ready=False, HEARTBEAT_INTERVAL="0.2", LEASE="1") as supervisor:
            heard.wait_for("READY=1")
            assert supervisor.get("/readyz")[0] == 200
            heard.wait_for("WATCHDOG=1", times=3)
            assert "STOPPING=1" not in heard
            assert supervisor.stop() == 0
            heard.wait_for("STOPPING=1")

    assert heard.count("READY=1") == 1
    assert heard.count("STOPPING=1") == 1


def test_an_abstract_address_is_understood(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"pushq-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        with supervising(database_url, ready=False):
            Heard(listening).wait_for("READY=1")


async def test_a_database_that_is_away_does_not_starve_the_watchdog(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else systemd would kill a healthy supervisor, and what it runs, for an outage that it would have waited out."""
    with systemd() as (address, heard):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        async with proxied(database_url) as proxy:
            with supervising(proxy.url, ready=False, HEARTBEAT_INTERVAL="0.2", LEASE="1") as supervisor:
                await asyncio.to_thread(heard.wait_for, "READY=1")
                proxy.is_silent = True
                await asyncio.to_thread(wait_until, lambda: "database lost" in supervisor.said, within=20)
                heard.clear()
                await asyncio.to_thread(heard.wait_for, "WATCHDOG=1", times=3)


# The unit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "command"), [("pushq.service", "supervise"), ("pushq-sweep.service", "sweep"), ("pushq-sweep.timer", "")]
)
def test_the_units_are_such_as_systemd_takes(tmp_path: Path, name: str, command: str) -> None:
    """With this machine's pushq in place of the operator's; where there is no systemd, the program must fit."""
    text = (DEPLOY / name).read_text()
    assert f"ExecStart=/opt/pushq/bin/pushq {command}" in text or name.endswith(".timer")
    assert PUSHQ.exists()

    if analyze := shutil.which("systemd-analyze"):
        for unit_file in DEPLOY.glob("pushq*.*"):
            (tmp_path / unit_file.name).write_text(unit_file.read_text().replace("/opt/pushq/bin/pushq", str(PUSHQ)))
        installed = tmp_path / name
        ended = subprocess.run([analyze, "verify", str(installed)], capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_the_unit_says_what_the_program_counts_on() -> None:
    expected = {
        "Type": "notify",
        "NotifyAccess": "main",
        "KillMode": "mixed",
        "Restart": "always",
        "RestartPreventExitStatus": "2",
        "OOMPolicy": "continue",
        "EnvironmentFile": "/etc/pushq/environment",
    }
    assert {key: option("Service", key) for key in expected} == expected
    assert not unit().has_option("Service", "ExecStartPre")


def test_the_unit_s_times_are_longer_than_the_program_s() -> None:
    settings = Settings.model_fields
    assert int(option("Service", "TimeoutStopSec")) > settings["shutdown_timeout"].default + 5
    assert int(option("Service", "WatchdogSec")) > 3 * settings["heartbeat_interval"].default


def test_the_unit_takes_away_what_running_jobs_does_not_need() -> None:
    for key in (
        "DynamicUser", "NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "ProtectKernelTunables",
        "ProtectControlGroups", "LockPersonality", "RestrictSUIDSGID", "RestrictNamespaces", "MemoryDenyWriteExecute",
    ):  # fmt: skip
        assert option("Service", key) == "yes", key
    assert option("Service", "ProtectSystem") == "strict"
    assert option("Service", "CapabilityBoundingSet") == ""
    assert "AF_UNIX" in option("Service", "RestrictAddressFamilies").split()  # systemd's own socket, and PostgreSQL's

    if analyze := shutil.which("systemd-analyze"):
        judge = [analyze, "security", "--offline=true", "--threshold=20", str(UNIT)]  # tenths, of ten
        assert subprocess.run(judge, capture_output=True, check=False).returncode == 0


def unit() -> RawConfigParser:
    """The unit file. Names have capitals; of those that stand there twice, the last."""
    parser = RawConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser


def option(section: str, key: str) -> str:
    return unit().get(section, key)


# Prometheus ---------------------------------------------------------------------------------------------------------


def test_every_metric_that_deploy_names_is_served(database_url: str) -> None:
    named = {
        name
        for file in ("prometheus.yml", "alerts.yml")
        for line in (DEPLOY / file).read_text().splitlines()
        if not line.lstrip().startswith("#")
        for name in re.findall(r"\bpushq_\w+", line)
    }
    with supervising(database_url) as supervisor:
        families = re.findall(r"^# TYPE (\w+) (\w+)$", supervisor.get("/metrics")[1], re.MULTILINE)

    served = {
        name + suffix
        for name, kind in families
        for suffix in (("_bucket", "_count", "_sum") if kind == "histogram" else ("",))
    }
    assert len(named) >= 6
    assert named - served == set()


# The image ----------------------------------------------------------------------------------------------------------


def test_the_image_starts_pushq_without_a_shell_and_without_root() -> None:
    assert instruction("ENTRYPOINT") == '["pushq"]'
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instruction("USER"))
    assert instruction("EXPOSE") == str(Settings.model_fields["http_port"].default)


def test_the_image_s_health_check_tells_a_living_supervisor_from_none(database_url: str) -> None:
    _, _, command = instruction("HEALTHCHECK").partition("CMD ")
    program, *arguments = json.loads(command)
    assert program == "python"

    def is_healthy(port: int) -> bool:
        environment = os.environ | {"PUSHQ_HTTP_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
        check = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
        return check.returncode == 0

    with supervising(database_url) as supervisor:
        port = supervisor.port
        assert is_healthy(port)
        supervisor.stop()
    assert not is_healthy(port)


def test_the_image_s_build_sees_every_file_that_it_copies() -> None:
    seen = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {
        source
        for line in (DEPLOY / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert copied == seen
    assert all((ROOT / source).exists() for source in copied)


def instruction(name: str) -> str:
    """What the last instruction of this name says, its lines joined."""
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [line.partition(" ")[2].strip() for line in lines if line.startswith(f"{name} ")][-1]
