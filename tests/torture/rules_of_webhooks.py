"""What holds of webhooks: what happened to a job is told, once and in order, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from math import inf

from tests.torture.history import ITS_URL, Arrival, Delivery, Violation
from tests.torture.stories import FINISHED, Circumstances, CommonRule, Rule, Step, Story


def deliveries_of_steps(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """Each change of the status of a covered job has its delivery, once, in its transaction and in its order, and each
    delivery its change. A job's own URL is told the ends."""
    if circumstances.history.deliveries is None:
        return
    queue = story.steps[0].after.queue if story.steps else ""
    changes = [(step.transaction, step.after.status) for step in story.steps if _is_told(step)]
    due = {webhook: changes if told == queue else [] for webhook, told in circumstances.history.told.items()}
    due[ITS_URL] = [(step.transaction, step.after.status) for step in story.ends if step.after.has_url]
    for receiver, expected in due.items():
        written = [(one.transaction, one.tells) for one in _to(story, receiver)]
        for one, other in zip_longest(expected, written):
            if one != other:
                yield story.finds("HOOK", f"its next delivery to {receiver} should be {one}, and is {other}")
                break


def _is_told(step: Step) -> bool:
    return step.kind == "insert" or step.before.status != step.after.status


def undelivered(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """After the calm each delivery has succeeded, unless it has killed its process too often. To a webhook that
    is gone, each is over."""
    history = circumstances.history
    for one in story.deliveries:
        is_over = one.status in FINISHED if one.receiver not in {*history.told, ITS_URL} else one.status == "succeeded"
        if not is_over and one.crashes < history.crashes_allowed:
            yield story.finds("HOOK", f"{_delivery(one)} is {one.status} in the end")


def successes_without_an_arrival(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """A delivery succeeds only if it has arrived, and was answered 2xx."""
    for one in story.deliveries:
        if one.status == "succeeded" and _accepted_at(one, circumstances) == inf:
            yield story.finds("HOOK", f"{_delivery(one)} has succeeded, and the receiver has not accepted it")


def disorder(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """To a receiver, nothing of a job arrives before what happened earlier was accepted, or given up."""
    for receiver in dict.fromkeys(one.receiver for one in story.deliveries):
        for one, other in pairwise(_to(story, receiver)):
            first = min((arrival.at for arrival in _arrivals(other, circumstances)), default=inf)
            if one.status == "succeeded" and first < _accepted_at(one, circumstances):
                yield story.finds("HOOK", f"{_delivery(other)} arrived before {_delivery(one)} was accepted")


def arrivals_of_nothing(_: Sequence[Story], circumstances: Circumstances) -> Iterator[Violation]:
    """What arrives is a delivery that the database committed, under its id each time, unless the server crashed and
    forgot."""
    known = {one.id: one for one in circumstances.history.deliveries or ()}
    for arrival in circumstances.history.arrivals:
        what = f"what arrived at {arrival.at:.3f} s of job {arrival.job} ({arrival.tells}) as {arrival.delivery}"
        one = known.get(arrival.delivery)
        if one is None and not circumstances.is_after_a_crash(arrival.at):
            yield Violation("HOOK", f"{what} is no delivery that was committed")
        elif one and (one.job, one.tells) != (arrival.job, arrival.tells):
            yield Violation("HOOK", f"{what} should be of job {one.job} ({one.tells})")


def webhooks_that_are_gone(_: Sequence[Story], circumstances: Circumstances) -> Iterator[Violation]:
    """A webhook whose receiver answered 410 is paused."""
    gone = {arrival.path for arrival in circumstances.history.arrivals if arrival.status == 410}
    for webhook in circumstances.history.webhooks:
        if webhook.path in gone and not webhook.is_paused:
            yield Violation("HOOK", f"the receiver of webhook {webhook.id} answered 410, and it is not paused")


def _to(story: Story, receiver: str) -> list[Delivery]:
    return sorted((one for one in story.deliveries if one.receiver == receiver), key=lambda one: one.number)


def _arrivals(one: Delivery, circumstances: Circumstances) -> Sequence[Arrival]:
    return circumstances.arrivals.get(one.id, ())


def _accepted_at(one: Delivery, circumstances: Circumstances) -> float:
    return min((each.at for each in _arrivals(one, circumstances) if 200 <= each.status < 300), default=inf)


def _delivery(one: Delivery) -> str:
    return f"the delivery {one.id} of {one.tells} to {one.receiver}"


RULES_OF_WEBHOOKS: tuple[Rule, ...] = (deliveries_of_steps, undelivered, successes_without_an_arrival, disorder)
COMMON_RULES_OF_WEBHOOKS: tuple[CommonRule, ...] = (arrivals_of_nothing, webhooks_that_are_gone)
