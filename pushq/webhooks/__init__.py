"""Webhooks: tells receivers over HTTP what became of jobs.

A delivery is a job of the task and the queue below, inserted by the database in the transaction of the change. Pools of
their own run deliveries, so that a receiver that hangs delays no job of an app.
"""

from __future__ import annotations

TASK = "pushq.webhook"
QUEUE = "pushq.webhooks"
