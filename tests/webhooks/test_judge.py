"""What an answer means for its delivery."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from pushq.errors import NotAccepted
from pushq.webhooks.deliver import judge
from pushq.webhooks.http import Answer

IN_TWO_DAYS = format_datetime(datetime.now(UTC) + timedelta(days=2), usegmt=True)


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ("0", "0"),
        ("1000", "1000"),
        ("86401", "86400"),
        ("99999999", "86400"),
        ("9" * 20, "86400"),
        ("9" * 5000, "86400"),
        (IN_TWO_DAYS, "86400"),
        ("soon", "soon"),
        ("-5", "-5"),
    ],
    ids=lambda value: value[:20],
)
def test_a_receiver_may_ask_for_a_day_at_most(asked: str, taken: str) -> None:
    with pytest.raises(NotAccepted) as refused:
        judge("hooks.example", Answer(503, "9.9.9.9", asked))

    assert refused.value.headers == {"Retry-After": taken}


def test_a_receiver_need_not_ask_for_a_delay() -> None:
    with pytest.raises(NotAccepted) as refused:
        judge("hooks.example", Answer(503, "9.9.9.9"))

    assert refused.value.headers == {}
