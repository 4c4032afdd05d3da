"""What a release is built of is written down, each package in one version and with the hashes of its files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.supervisors import ROOT

LOCK = (ROOT / "deploy" / "requirements.txt").read_text()
LOCKED = re.findall(r"^([\w.-]+)==(\S+)(.*?)(?=^[\w.-]+==|\Z)", LOCK, re.MULTILINE | re.DOTALL)
VERSIONS = {name: version for name, version, _ in LOCKED}
NEEDED = [Requirement(line) for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]


def closure(needed: list[Requirement], seen: set[str]) -> Iterator[str]:
    """The names of all that these need, by what is installed here."""
    for one in needed:
        name = canonicalize_name(one.name)
        if name not in seen and (one.marker is None or one.marker.evaluate({"extra": ""})):
            seen.add(name)
            yield name
            yield from closure([Requirement(line) for line in requires(name) or ()], seen)


def test_every_package_is_locked_with_the_hashes_of_its_files() -> None:
    assert len(LOCKED) >= len(NEEDED)
    for name, _, rest in LOCKED:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", rest), name
    assert set(closure(NEEDED, set())) <= VERSIONS.keys()


@pytest.mark.parametrize("needed", NEEDED, ids=lambda needed: needed.name)
def test_what_is_locked_is_what_the_package_asks_for(needed: Requirement) -> None:
    """Where it is not: `make lock`."""
    assert needed.specifier.contains(VERSIONS[canonicalize_name(needed.name)])


def test_the_lock_says_nothing_of_where_packages_come_from() -> None:
    assert not re.search(r"https?:|--(extra-)?index|--find-links|--trusted| @ ", LOCK)


def test_the_image_installs_what_is_locked_and_nothing_else() -> None:
    installs = re.findall(r"pip install (.*)", (ROOT / "deploy" / "Dockerfile").read_text())
    assert [install.split()[1:] for install in installs] == [
        ["--require-hashes", "-r", "deploy/requirements.txt"],
        ["--no-deps", "."],
    ]
