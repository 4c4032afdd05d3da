"""The same table as that of tests/model."""

from tests.model.conftest import table

__all__ = ["table"]
