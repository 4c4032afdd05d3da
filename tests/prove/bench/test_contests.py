"""The comparison with peers. pushq alone goes through it here; the peers need their registries: `make bench-peers`."""

from __future__ import annotations

from pathlib import Path

from pushq.bench.measure import measure
from pushq.bench.peers.catalogue import PUSHQ
from pushq.bench.peers.contest import contests
from pushq.bench.peers.installed import Installed
from pushq.bench.pgbench import Pgbench
from pushq.bench.run import Record, Scope, Teller
from tests.support.server import Server


async def test_pushq_goes_through_every_contest(server: Server, tmp_path: Path) -> None:
    scenarios = contests(Installed(tmp_path), [PUSHQ])

    report = await measure(
        server.url,
        Pgbench.find(Path(server.bin_directory)),
        scenarios,
        Scope(rounds=1, scale=0.005),
        record=Record(),
        teller=Teller(),
        has_all_the_time=True,
    )

    assert not report.failures
    figures = {(figure.measure.scenario, figure.measure.name): figure.median for figure in report.figures}
    assert {scenario for scenario, _ in figures} == {scenario.name for scenario in scenarios}
    for name in ("100 jobs", "500 jobs"):
        assert 100 < figures["drain", name] < 1_000_000
    assert 0 < figures["pick-up", "200/s, p50"] < figures["pick-up", "200/s, p99"] < 5000
    assert 50 < figures["insert", "8 clients"] < 100_000
    assert 100 < figures["bulk", "500 jobs"] < 1_000_000
    assert 0 <= figures["idle", "CPU s a minute"] < 60
