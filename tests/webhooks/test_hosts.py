"""How many deliveries go to a host at once."""

from __future__ import annotations

from pushq.webhooks.hosts import LONGEST_WAIT, Hosts


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def entered(hosts: Hosts, name: str, tries: int, *, has_waited: bool = False) -> int:
    return sum(hosts.enter(name, has_waited=has_waited) == 0 for _ in range(tries))


def quick(hosts: Hosts, name: str) -> None:
    assert hosts.enter(name, has_waited=True) == 0
    hosts.leave(name, 0.01)


def test_an_unknown_host_takes_two_at_once() -> None:
    assert entered(Hosts(20), "new.example", 5) == 2


def test_a_quick_host_takes_half_of_the_workers() -> None:
    hosts = Hosts(20)
    quick(hosts, "quick.example")

    assert entered(hosts, "quick.example", 30) == 10


def test_however_many_hosts_hang_half_of_the_workers_are_left_to_quick_ones() -> None:
    hosts = Hosts(20)
    quick(hosts, "quick.example")

    assert sum(entered(hosts, f"{number}.example", 5) for number in range(100)) == 10
    assert entered(hosts, "quick.example", 10) == 10


def test_a_host_that_begins_to_hang_is_no_longer_quick() -> None:
    hosts = Hosts(20)
    quick(hosts, "once.example")
    assert hosts.enter("once.example", has_waited=True) == 0
    hosts.leave("once.example", 15)

    assert entered(hosts, "once.example", 5) == 2


def test_a_host_that_answers_quickly_again_is_quick_again() -> None:
    hosts = Hosts(20)
    assert hosts.enter("slow.example", has_waited=False) == 0
    hosts.leave("slow.example", 15)
    for _ in range(10):
        quick(hosts, "slow.example")

    assert entered(hosts, "slow.example", 30) == 10


def test_those_without_a_place_come_back_one_after_the_other() -> None:
    clock = Clock()
    hosts = Hosts(4, clock)
    assert hosts.enter("a.example", has_waited=False) == 0
    hosts.leave("a.example", 0.4)
    assert entered(hosts, "a.example", 2) == 2

    waits = [hosts.enter("a.example", has_waited=False) for _ in range(4)]
    assert [round(wait, 3) for wait in waits] == [0.2, 0.4, 0.6, 0.8]
    clock.now += 0.2
    assert round(hosts.enter("a.example", has_waited=False), 3) == 0.8  # behind the others, though it came later


def test_who_comes_back_goes_before_who_comes_for_the_first_time() -> None:
    clock = Clock()
    hosts = Hosts(4, clock)
    assert entered(hosts, "a.example", 2) == 2
    assert hosts.enter("a.example", has_waited=False) > 0
    hosts.leave("a.example", 3)

    assert hosts.enter("a.example", has_waited=False) > 0
    assert hosts.enter("a.example", has_waited=True) == 0


def test_before_a_host_has_answered_its_line_comes_back_soon_and_less_and_less_often() -> None:
    clock = Clock()
    hosts = Hosts(20, clock)
    assert entered(hosts, "new.example", 2) == 2
    assert max(hosts.enter("new.example", has_waited=False) for _ in range(48)) < 3

    tries = 0
    due = [clock.now] * 48
    for _ in range(1500):  # 15 s, the deadline of a delivery
        clock.now += 0.01
        for place, at in enumerate(due):
            if at <= clock.now:
                tries += 1
                due[place] = clock.now + hosts.enter("new.example", has_waited=True)
    assert tries < 48 * 5


def test_once_a_host_has_answered_quickly_nobody_waits_for_the_line_that_was_reckoned_before() -> None:
    clock = Clock()
    hosts = Hosts(20, clock)
    assert entered(hosts, "new.example", 50) == 2
    hosts.leave("new.example", 0.01)

    assert entered(hosts, "new.example", 9) == 9


def test_a_host_that_is_free_is_not_waited_for() -> None:
    hosts = Hosts(4, Clock())
    assert entered(hosts, "a.example", 100) == 2
    hosts.leave("a.example", 0.01)
    hosts.leave("a.example", 0.01)

    assert hosts.enter("a.example", has_waited=False) == 0


def test_no_line_is_longer_than_five_minutes() -> None:
    hosts = Hosts(4, Clock())
    assert hosts.enter("a.example", has_waited=False) == 0
    hosts.leave("a.example", 15)

    assert max(hosts.enter("a.example", has_waited=False) for _ in range(1000)) == LONGEST_WAIT


def test_a_pool_of_one_worker_delivers_too() -> None:
    assert entered(Hosts(1), "a.example", 3) == 1


def test_hosts_of_long_ago_are_forgotten() -> None:
    hosts = Hosts(20)
    for number in range(30_000):
        quick(hosts, f"{number}.example")

    assert len(hosts._known) <= 10_000
