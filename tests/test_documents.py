"""The documents name what there is: links lead somewhere, tests exist, the catalogue is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.record import Record
from tests.support.supervisors import ROOT
from tests.torture.record import report as report_of_torture
from tests.torture_drain.record import report as report_of_drains

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.relative_to(ROOT).as_posix())
def test_every_link_within_the_project_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)", document.read_text())
    for path, heading in links:
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), path
        if heading:
            assert heading in anchors(target), f"{path}#{heading}"


def anchors(document: Path) -> set[str]:
    """Those of its headings, as they are made for links."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_tree_of_the_architecture_names_every_module() -> None:
    tree = "\n".join(line for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines() if "── " in line)
    modules = {path.name for path in (ROOT / "pushq").rglob("*.py")}
    assert modules - set(re.findall(r"\w+\.py", tree)) - {"__init__.py"} == set()


def test_the_index_names_every_page() -> None:
    pages = {path for kind in ("how-to", "reference", "explanation") for path in (ROOT / "docs" / kind).glob("*.md")}
    index = (ROOT / "docs" / "README.md").read_text()
    assert {path for path in pages if f"({path.parent.name}/{path.name})" not in index} == set()


def test_each_guarantee_names_a_test() -> None:
    text = (ROOT / "README.md").read_text()
    guarantees = re.findall(r"^\| \d+ \| \*\*.*$", text, re.MULTILINE)
    assert len(guarantees) == 19
    for guarantee in guarantees:
        assert re.search(r"\]\(tests/", guarantee), guarantee


def test_the_catalogue_answers_each_of_the_74_failure_modes_and_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "explanation" / "reliability.md").read_text()
    rows = re.findall(r"^\| ([A-Z]\d[^|]*)\|[^|]*\|(.*)\|$", text, re.MULTILINE)
    assert sum(len(modes.split(",")) for modes, _ in rows) == 74
    assert [modes for modes, answer in rows if not answer.strip()] == []
    files = {path.name for path in (ROOT / "tests").rglob("*.py")}
    for named in re.findall(r"`(test_\w+\.py)`", text):
        assert named in files, named
    for named in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (ROOT / named).exists(), named


def test_the_records_of_the_batteries_are_told_as_they_are() -> None:
    text = (ROOT / "docs" / "explanation" / "reliability.md").read_text()
    records = ROOT / "docs" / "records"

    assert report_of_torture(Record(records / "torture.jsonl").runs) in text
    assert report_of_drains(Record(records / "torture-drain.jsonl").runs) in text
