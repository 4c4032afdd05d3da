"""The headers of Standard Webhooks. Each secret of a subscription signs, so that secrets can be rotated."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from secrets import token_bytes
from uuid import UUID

from pushq.errors import SecretUnusable

PREFIX = "whsec_"
LENGTHS = range(24, 76)
"""Bytes of a key, as pushq.webhooks takes them."""


def new_secret() -> str:
    return PREFIX + base64.b64encode(token_bytes(32)).decode()


def headers(webhook_id: UUID, secrets: Sequence[str], now: int, body: bytes) -> list[tuple[str, str]]:
    """The headers of a delivery. now: seconds since 1970. Without secrets, nothing is signed."""
    signed = signature(secrets, str(webhook_id), now, body)
    return [
        ("Content-Type", "application/json"),
        ("User-Agent", "pushq"),
        ("webhook-id", str(webhook_id)),
        ("webhook-timestamp", str(now)),
        *([("webhook-signature", signed)] if signed else []),
    ]


def signature(secrets: Sequence[str], webhook_id: str, timestamp: int, body: bytes) -> str:
    """The value of the header webhook-signature: a signature by each secret, in their order.

    Raises SecretUnusable, which does not show the secret.
    """
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return " ".join(
        f"v1,{base64.b64encode(hmac.digest(_key(secret, number), signed, hashlib.sha256)).decode()}"
        for number, secret in enumerate(secrets, 1)
    )


def _key(secret: str, number: int) -> bytes:
    text = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in LENGTHS:
        raise SecretUnusable(
            f"Secret {number} cannot sign: a secret is {PREFIX} and {LENGTHS[0]} to {LENGTHS[-1]} bytes in base64; "
            "replace the secret."
        )
    return key
