"""The same fixtures as those of tests/promises."""

from tests.promises.conftest import diary, store

__all__ = ["diary", "store"]
