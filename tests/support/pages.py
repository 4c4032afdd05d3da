"""Pages of the documents, and a shell into which their commands are typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.supervisors import ROOT, environment


def section(page: str, heading: str) -> str:
    """The text under a heading, without further headings. page: its path below docs/."""
    text = (ROOT / "docs" / page).read_text()
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", _without_comments(text), re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1].replace(_HASH, "#")


_HASH = "\N{FULLWIDTH NUMBER SIGN}"


def _without_comments(text: str) -> str:
    """Code may begin a line with a comment, which is no heading."""
    return re.sub(r"^```.*?^```", lambda code: code[0].replace("#", _HASH), text, flags=re.MULTILINE | re.DOTALL)


def blocks(kind: str, text: str) -> list[str]:
    """Its blocks of code of a kind: "sql", "python" …"""
    return re.findall(rf"^ *```{kind}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Its blocks of commands, each as a script, without what the commands print."""
    lines = (re.findall(r"^ *\$ (.*)", block, re.MULTILINE) for block in blocks("console", text))
    return ["\n".join(block) for block in lines]


@dataclass
class Shell:
    url: str
    programs: Path
    """Where psql is."""
    directory: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{self.programs}:{os.environ['PATH']}"
        return environment(self.url, HTTP_PORT="0") | {"PATH": path} | self.variables

    def run(self, script: str) -> str:
        """What its commands print, of which none may fail."""
        ended = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            env=self.env,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout
