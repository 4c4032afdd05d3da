"""A job runs, and the bell starts it."""

from __future__ import annotations

from tests.promises.test_every_job_runs import (
    test_a_job_for_later_starts_at_its_time_and_one_for_earlier_wakes_the_sleeper,
    test_a_job_inserted_by_psql_starts_without_any_polling,
    test_a_transaction_that_inserted_before_the_pool_was_idle_and_commits_late_is_seen,
    test_any_number_of_pools_share_the_jobs_and_none_runs_twice,
)
