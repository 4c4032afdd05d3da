"""`make bench` starts the benchmark."""

from __future__ import annotations

import subprocess

from tests.support.supervisors import ROOT


def test_the_words_after_make_bench_are_scenarios() -> None:
    def bench(*words: str) -> str:
        made = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return " ".join(next(line for line in made.stdout.splitlines() if "pushq bench" in line).split())

    assert bench("bench", "share", "drain").endswith("--resume share drain")
    assert bench("bench", "share") == bench("bench", "BENCH=share")
    assert bench("bench").endswith("--resume")
