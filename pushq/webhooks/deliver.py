"""The task that delivers webhooks, and what its attempts share. Only delivering pools import this.

A delivery is tried for some three days. Any answer but 2xx is a failure, as Standard Webhooks has it, and tried again.
Some failures end a delivery at once, since no later attempt would differ: a refused URL or address, a paused
subscription, and 410, which pauses the subscription.

A delivery that must wait is no failure. It goes back into the queue and leaves its worker to others: while an earlier
delivery of the same job to the same receiver is not over (order.py), and while the host takes no more (hosts.py).
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import ip_network
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

from pushq.current import current_job
from pushq.database.patience import is_rejection, wait_out
from pushq.database.session import Session
from pushq.errors import NotAccepted, ReceiverGone, SubscriptionPaused, Undeliverable
from pushq.job import Job
from pushq.lifespan import Resource
from pushq.link import Assignment
from pushq.outcome import Cancel, Retry
from pushq.retries import retry_after
from pushq.task import Tasks
from pushq.webhooks import QUEUE, TASK
from pushq.webhooks.body import body_of
from pushq.webhooks.hosts import Hosts
from pushq.webhooks.http import Answer, Headers, Poster, Resolver
from pushq.webhooks.order import Order
from pushq.webhooks.signature import headers
from pushq.webhooks.store import Found, Store
from pushq.webhooks.target import target_of

T = TypeVar("T")

MAX_ATTEMPTS = 12
DELAYS = (5, 60, 5 * 60, 30 * 60, 3600, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
"""Seconds after each failure but the last, before the random fifth that is added: like Standard Webhooks' example."""
LONGEST_ASKED = timedelta(days=1)
"""The longest delay that a receiver may ask for by Retry-After."""
SOON = 1.0
"""Seconds that a delivery waits in the pool for an earlier one."""
MOST_REMEMBERED = 10_000
"""Webhooks whose hosts are remembered."""
LONGEST_WAIT = 300.0
"""Seconds after which a delivery looks again for earlier ones. They may have been cancelled, or replayed."""


def backoff(failures: int) -> timedelta:
    return timedelta(seconds=DELAYS[min(failures, len(DELAYS)) - 1] * random.uniform(1.0, 1.2))


def tasks_for(assignment: Assignment) -> Tasks:
    """The registry of a delivering pool."""
    tasks = Tasks()

    @tasks.lifespan
    async def deliverer() -> AsyncGenerator[Deliverer]:
        name = f"pushq pool {assignment.pool} of {assignment.supervisor}: webhooks"
        session = Session(assignment.url, name)
        allowed = tuple(ip_network(network) for network in assignment.webhook_allow or ())
        workers = assignment.concurrency
        poster = Poster(Resolver(workers), allowed)
        try:
            yield Deliverer(Store(session), poster, Hosts(workers), Order(workers // 4))
        finally:
            await session.close()

    @tasks.register(TASK, queue=QUEUE, max_attempts=MAX_ATTEMPTS, backoff=backoff, fail_on=Undeliverable)
    async def deliver(
        deliverer: Resource[Deliverer],
        event: int,
        type: str,  # noqa: A002 - the keys of the payload
        timestamp: str,
        data: dict[str, Any],
        webhook: UUID | None = None,
        url: str | None = None,
        body: str | None = None,
    ) -> dict[str, Any]:
        delivery = Delivery(current_job(), event, type, timestamp, data, webhook, url, body)
        return await deliverer.deliver(delivery)

    return tasks


@dataclass(frozen=True, slots=True)
class Delivery:
    """The job of a delivery, and its payload. webhook: the subscription; None: the job's own `url` is told.

    body: the form of the body; None: as the subscription has it, else standard.
    """

    job: Job
    number: int
    kind: str
    timestamp: str
    data: dict[str, Any]
    webhook: UUID | None
    url: str | None
    body: str | None


@dataclass(frozen=True, slots=True)
class Deliverer:
    store: Store
    poster: Poster
    hosts: Hosts
    order: Order
    last_hosts: dict[UUID | None, str] = field(default_factory=dict)
    """The host of each webhook at its last delivery: who finds no place there is put back without a question."""

    async def deliver(self, delivery: Delivery) -> dict[str, Any]:
        """Sends one delivery, and returns its result. Raises Retry, Cancel or Undelivered."""
        self.order.begin(delivery.job.id)
        is_over = False
        try:
            result = await self._deliver(delivery)
            is_over = True
        except (Undeliverable, Cancel):
            is_over = True
            raise
        finally:
            self.order.end(delivery.job.id, is_over=is_over)
        return result

    async def _deliver(self, delivery: Delivery) -> dict[str, Any]:
        has_waited = delivery.job.attempt > 1
        if host := self.last_hosts.get(delivery.webhook):
            _come_back_in(self.hosts.wait(host, has_waited=has_waited))
        found = await self._find(delivery)
        target = target_of(found.url or "")
        self._remember(delivery.webhook, target.host)
        await self._wait_for_earlier(delivery, found)
        _come_back_in(self.hosts.enter(target.host, has_waited=has_waited))
        began = monotonic()
        try:
            body = body_of(delivery.body or found.body or "standard", delivery.kind, delivery.timestamp, delivery.data)
            answer = await self.poster.post(target, _headers(delivery, found, body), body)
        finally:
            seconds = monotonic() - began
            self.hosts.leave(target.host, seconds)
        if answer.status == 410:
            await self._pause(delivery, found)
        judge(target.host, answer)
        return {"status": answer.status, "seconds": round(seconds, 3)} | ({"cut": answer.cut} if answer.cut else {})

    async def _find(self, delivery: Delivery) -> Found:
        job = delivery.job
        told = UUID(job.correlation_id or str(job.id))
        found = await _patiently(lambda: self.store.find(told, job.tenant_id, delivery.webhook, delivery.number))
        if delivery.webhook is None:
            return replace(found, url=delivery.url)
        if found.url is None:
            raise Cancel(f"webhook {delivery.webhook} has been deleted")
        if found.is_paused:
            raise SubscriptionPaused(f"Webhook {delivery.webhook} is paused; resume it, and replay its deliveries.")
        return found

    async def _wait_for_earlier(self, delivery: Delivery, found: Found) -> None:
        """Raises Retry while an earlier delivery of the same job to the same receiver is not over."""
        waits_here = 0.0 if found.due_in else SOON
        if await self.order.left_of(found.earlier, waits_here):
            _come_back_in(min(found.due_in or 0.1 * 2.0 ** min(delivery.job.attempt, 6), LONGEST_WAIT))

    def _remember(self, webhook: UUID | None, host: str) -> None:
        if webhook:
            if len(self.last_hosts) >= MOST_REMEMBERED:
                self.last_hosts.clear()
            self.last_hosts[webhook] = host

    async def _pause(self, delivery: Delivery, found: Found) -> None:
        if (webhook := delivery.webhook) and (url := found.url):
            await _patiently(lambda: self.store.pause(webhook, url))


def _come_back_in(seconds: float) -> None:
    """Raises Retry, unless the wait is 0."""
    if seconds:
        raise Retry(after=timedelta(seconds=seconds))


def _headers(delivery: Delivery, found: Found, body: bytes) -> Headers:
    return headers(delivery.job.id, found.secrets or (), found.now, body)


def judge(host: str, answer: Answer) -> None:
    """Raises ReceiverGone or NotAccepted for an answer that is not 2xx."""
    status = answer.status
    if 200 <= status < 300:
        return
    if status == 410:
        raise ReceiverGone(f"{host} answered 410 Gone: its webhook is paused.")
    remedy = "; redirects are not followed, so give the URL that it leads to" if 300 <= status < 400 else ""
    raise NotAccepted(f"{host} answered {status}{remedy}.", _within_a_day(answer.retry_after))


def _within_a_day(asked: str | None) -> str | None:
    """The value of Retry-After, or the longest delay, also for a number beyond what a timedelta holds."""
    delay = retry_after(NotAccepted("", asked))
    is_beyond = delay is None and asked is not None and asked.isascii() and asked.isdigit()
    if is_beyond or (delay and delay > LONGEST_ASKED):
        return str(round(LONGEST_ASKED.total_seconds()))
    return asked


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Waits until the database answers. A statement that it rejects fails the attempt, which is tried again later."""
    return await wait_out(ask, unless=is_rejection)
