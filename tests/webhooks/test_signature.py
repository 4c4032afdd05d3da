"""Signatures, verified by the public library of Standard Webhooks."""

from __future__ import annotations

import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from pushq.errors import SecretUnusable
from pushq.webhooks.signature import new_secret, signature

ID = "0199c2a4-7f5e-7c3a-9b7e-1a2b3c4d5e6f"
BODY = '{"type":"job.succeeded","data":{"id":"é"}}'


def headers(secrets: list[str], body: str = BODY) -> dict[str, str]:
    now = int(time.time())
    signed = signature(secrets, ID, now, body.encode())
    return {"webhook-id": ID, "webhook-timestamp": str(now), "webhook-signature": signed}


def test_the_public_library_verifies_a_signature() -> None:
    secret = new_secret()

    assert Webhook(secret).verify(BODY, headers([secret]))["type"] == "job.succeeded"


def test_during_a_rotation_both_the_old_and_the_new_secret_verify() -> None:
    new, old, other = new_secret(), new_secret(), new_secret()
    both = headers([new, old])

    assert Webhook(new).verify(BODY, both)
    assert Webhook(old).verify(BODY, both)
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(BODY, both)


def test_a_changed_body_does_not_verify() -> None:
    secret = new_secret()

    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY + " ", headers([secret]))


def test_a_secret_may_lack_its_prefix_and_its_padding() -> None:
    whole = "c2VjcmV0" * 4  # 'secret' four times, a multiple of three bytes
    assert signature([f"whsec_{whole}"], ID, 1, b"") == signature([whole], ID, 1, b"")
    assert signature([f"whsec_{whole}cw"], ID, 1, b"") == signature([f"whsec_{whole}cw=="], ID, 1, b"")


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "whsec_not base64!" * 3, "whsec_" + "a" * 33, "whsec_é", "whsec_" + "A" * 28, "whsec_" + "A" * 104],
)
def test_a_secret_that_cannot_sign_is_named_by_its_number_and_not_shown(secret: str) -> None:
    with pytest.raises(SecretUnusable, match=r"^Secret 2 cannot sign: a secret is whsec_ and 24 to 75 bytes in base64"):
        signature([new_secret(), secret], ID, 1, b"")


def test_without_secrets_nothing_is_signed() -> None:
    assert signature([], ID, 1, b"") == ""
