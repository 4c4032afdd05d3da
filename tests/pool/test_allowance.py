"""How often a pool heeds a bell that leads to nothing."""

from __future__ import annotations

from pushq.pool.attention import Allowance


async def test_who_is_rung_for_nothing_waits_from_the_twenty_first_time_on() -> None:
    allowance = Allowance()

    assert [allowance.spend() for _ in range(20)] == [0] * 20
    assert 0 < allowance.spend() <= 0.05


async def test_a_storm_that_was_not_waited_for_puts_nobody_into_debt() -> None:
    """Something else may end each of these waits, a job that falls due and that somebody else has, say."""
    allowance = Allowance()
    for _ in range(10_000):
        allowance.spend()

    assert allowance.spend() <= 0.05
