"""Installs the peers from their registries, each language's into a folder of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pushq.bench.peers.catalogue import NODE, PEERS, System
from pushq.errors import UsageError

DRIVERS = Path(__file__).parent
SECONDS_TO_INSTALL = 600


class Installed:
    """The peers in a directory. Packages that are there already are not installed again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()

    def install(self, show: Callable[[str], None]) -> None:
        """Installs what is missing. show: hears about each step. Raises UsageError without npm or a registry."""
        for peer in PEERS:
            if peer.language == "Python":
                self._install(peer, show)
        self._install_node_packages(show)

    def command(self, system: System) -> list[str]:
        """Runs the system's driver with its adapter."""
        if system.language == "Python":
            python = self._environment(system) / "bin" / "python" if system.packages else sys.executable
            return [str(python), "-P", str(DRIVERS / "driver.py"), str(system.file)]
        # A module is looked for beside the file that imports it.
        return [
            str(self._modules / ".bin" / "node"),
            *(str(self._node / name) for name in ("driver.mjs", system.adapter)),
        ]

    def _install(self, peer: System, show: Callable[[str], None]) -> None:
        environment, wanted = self._environment(peer), " ".join(peer.packages)
        if _noted(environment) == wanted:
            return
        show(f"installing {peer.name}")
        _run([sys.executable, "-m", "venv", "--clear", str(environment)])
        _run([str(environment / "bin" / "pip"), "install", "--quiet", *peer.packages])
        _note(environment, wanted)

    def _install_node_packages(self, show: Callable[[str], None]) -> None:
        peers = [peer for peer in PEERS if peer.language == "Node.js"]
        packages = sorted({NODE, *(package for peer in peers for package in peer.packages)})
        self._node.mkdir(parents=True, exist_ok=True)
        for file in (DRIVERS / "driver.mjs", *(peer.file for peer in peers)):
            shutil.copy(file, self._node)
        if _noted(self._node) == " ".join(packages):
            return
        if not shutil.which("npm"):
            raise UsageError("npm is not found, and Graphile Worker and pg-boss need it: install Node.js.")
        show(f"installing {', '.join(peer.name for peer in peers)}")
        versions = dict(package.rsplit("@", 1) for package in packages)
        (self._node / "package.json").write_text(
            json.dumps({"private": True, "type": "module", "dependencies": versions})
        )
        _run(["npm", "install", "--no-audit", "--no-fund", "--silent"], directory=self._node)
        _note(self._node, " ".join(packages))

    def _environment(self, peer: System) -> Path:
        return self._directory / peer.name

    @property
    def _node(self) -> Path:
        return self._directory / "node"

    @property
    def _modules(self) -> Path:
        return self._node / "node_modules"


def _noted(folder: Path) -> str | None:
    """What was installed in a folder to the end."""
    file = folder / "installed"
    return file.read_text() if file.is_file() else None


def _note(folder: Path, packages: str) -> None:
    (folder / "installed").write_text(packages)


def _run(command: Sequence[str], directory: Path | None = None) -> None:
    shown = f"`{' '.join(command)}`"
    try:
        ended = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=SECONDS_TO_INSTALL, check=False
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"{shown} did not end in {SECONDS_TO_INSTALL} s. Is its registry within reach?") from None
    if ended.returncode:
        raise UsageError(f"{shown} failed: {(ended.stderr or ended.stdout).strip()[-500:]}")
