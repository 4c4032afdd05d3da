"""Statements for drivers whose parameters are `%s`."""

from __future__ import annotations

import re
from functools import cache


@cache
def in_percents(text: str) -> str:
    """A statement whose parameters are $1, $2, … in this order, each once; without its comments, which name them."""
    bare = re.sub(r"--.*\n", "", text).replace("%", "%%")
    return re.sub(r"\$\d+", "%s", bare)
