"""Files that handlers leave with their jobs."""

from __future__ import annotations

from tests.promises.test_artifacts import (
    test_a_call_repeated_after_a_lost_reply_does_nothing_twice,
    test_a_day_is_emptied_when_nothing_points_into_it_and_dropped_after_the_days_of_jobs,
    test_a_later_attempt_replaces_what_an_earlier_has_left_once_it_is_complete,
    test_a_wrong_sha256_of_up_to_4_mib_is_refused,
    test_an_artifact_put_again_after_a_lost_reply_is_the_same,
    test_an_artifact_written_over_midnight_lies_in_the_day_of_its_beginning,
    test_names_are_no_paths_and_types_are_types_for_python_and_for_sql,
    test_of_two_attempts_that_end_at_once_the_one_that_holds_the_job_wins,
    test_plain_sql_writes_and_reads,
    test_what_a_handler_writes_is_read_again_whatever_the_size,
)
from tests.security.conftest import app, logins, separated
from tests.security.test_artifacts import (
    test_a_tenant_reads_the_artifacts_of_its_own_jobs_alone,
    test_nothing_stays_of_a_deleted_tenant_s_drafts_and_of_what_was_counted,
)
