"""The schema, from nothing."""

from __future__ import annotations

from tests.migrations.test_check import (
    test_check_says_what_is_wrong_and_ends_with_1,
    test_the_schema_is_written_down_as_the_migrations_and_the_roles_make_it,
)
from tests.migrations.test_jobs_table import (
    test_ids_are_time_ordered_and_of_version_7,
    test_ids_made_at_once_are_distinct_and_ascend,
)
