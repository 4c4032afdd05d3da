"""Payloads that know their JSON text, so that an INSERT need not write the text a second time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any


class WrittenPayload(dict[str, Any]):
    """A payload with its JSON text. text: None once the payload was changed."""

    __slots__ = ("text",)

    text: str | None


def _forgetting(change: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(change)
    def method(self: WrittenPayload, *args: Any, **kwargs: Any) -> Any:
        self.text = None
        return change(self, *args, **kwargs)

    return method


for _change in ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"):
    setattr(WrittenPayload, _change, _forgetting(getattr(dict, _change)))


def with_text(payload: dict[str, Any], text: str) -> dict[str, Any]:
    """The payload, if possible with its text.

    A change inside of a value would not be noticed, so a payload with a list or an object inside stays as it is. Text
    beyond ASCII would need the connection's encoding.
    """
    if not text.isascii() or any(type(value) in _CHANGEABLE for value in payload.values()):
        return payload
    written = WrittenPayload(payload)
    written.text = text
    return written


_CHANGEABLE = (dict, list)


def text_of(payload: Mapping[str, object]) -> str | None:
    """The JSON text of a payload that knows its text."""
    return getattr(payload, "text", None) if type(payload) is WrittenPayload else None
