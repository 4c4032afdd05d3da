"""The shares of fair queues: where this pool's round of each queue stands.

Theory of operation. A claim goes round the shares of a fair queue, and takes a job of each, or as many as the weight of
a tenant says (pushq.guess_in_ring). The next claim goes on from there. So a job that is alone in its share waits for
one round of each pool, however many jobs the other shares have. Each pool goes round by itself.

Shares are in a ring, in the order of their names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pushq.job import Job


class Shares:
    """queues: in the order in which the pool claims from them."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = queues
        self._stands: dict[str, tuple[str, int]] = {}

    @property
    def after(self) -> list[str | None] | None:
        """For each queue, the share of which the last job was taken. None: no queue is fair, as far as is known."""
        return [self._stand(queue)[0] for queue in self._queues] if self._stands else None

    @property
    def taken(self) -> list[int] | None:
        """For each queue, how many jobs of that share were taken in turn."""
        return [self._stand(queue)[1] for queue in self._queues] if self._stands else None

    def _stand(self, queue: str) -> tuple[str | None, int]:
        return self._stands.get(queue, (None, 0))

    def note(self, jobs: Sequence[Job]) -> None:
        """Jobs of fair queues were claimed."""
        counts = Counter((job.queue, job.share or "") for job in jobs)
        weights = {(job.queue, job.share or ""): job.weight for job in jobs}
        last: dict[str, tuple[int, bool, str, int]] = {}
        for (queue, share), count in counts.items():
            stand, taken = self._stand(queue)
            weight = weights[queue, share]
            whole = count + (min(taken, weight) if share == stand else 0)
            rounds = (whole - 1) // weight
            last[queue] = max(
                last.get(queue, (0, False, "", 0)),
                (rounds, share < (stand or ""), share, whole - rounds * weight),
            )
        self._stands |= {queue: (share, taken) for queue, (_, _, share, taken) in last.items()}
