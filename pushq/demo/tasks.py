"""The demo's handlers: real work on real files. `pushq supervise pushq.demo.tasks:tasks` runs them anywhere."""

from __future__ import annotations

import hashlib
import tokenize
from collections import Counter
from datetime import timedelta
from pathlib import Path

from pushq.backoff import exponential
from pushq.task import Tasks

tasks = Tasks()

# A file that cannot be decoded now cannot be decoded in a second either. The demo retries anyway, to show retries.
soon = exponential(timedelta(milliseconds=200), longest=timedelta(seconds=1))


@tasks.register("file.digest", max_attempts=3, backoff=soon)
def digest(path: str) -> dict[str, object]:
    """A file's size and SHA-256."""
    content = Path(path).read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@tasks.register("text.lines", max_attempts=3, backoff=soon)
def lines(path: str) -> dict[str, int]:
    """The lines and words of a text in UTF-8."""
    text = Path(path).read_text(encoding="utf-8")
    return {"lines": text.count("\n"), "words": len(text.split())}


@tasks.register("python.tokens", max_attempts=3, backoff=soon)
def tokens(path: str) -> dict[str, object]:
    """The tokens of a Python source, in the declared encoding."""
    with tokenize.open(path) as source:
        kinds = Counter(tokenize.tok_name[token.type].lower() for token in tokenize.generate_tokens(source.readline))
    return {"tokens": kinds.total(), "kinds": dict(kinds.most_common(5))}
