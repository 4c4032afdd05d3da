"""The same stage as that of tests/isolation."""

from tests.isolation.conftest import stage, stage_that_lacks_the_newest_migration

__all__ = ["stage", "stage_that_lacks_the_newest_migration"]
