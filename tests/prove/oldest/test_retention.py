"""How long each queue's finished jobs are kept, and what holds up who sees to that."""

from __future__ import annotations

from tests.cli.test_doctor import test_a_trigger_that_keeps_jobs_from_the_purge_is_found_and_one_that_does_not_is_not
from tests.cli.test_sweep import test_who_holds_a_sweep_up_by_a_lock_is_told_within_seconds
from tests.promises.test_retention import (
    test_a_finished_job_goes_when_the_keep_of_its_queue_is_over,
    test_a_job_stays_while_a_webhook_has_not_been_delivered,
    test_a_job_that_is_retried_at_that_moment_runs_again,
    test_a_keep_beyond_the_retention_holds_the_day_and_the_jobs_of_others_go,
    test_a_step_looks_at_so_many_blocks_and_deletes_so_many_jobs_and_the_next_goes_on,
    test_endless_and_huge_times_keep_for_ever_and_overflow_nothing,
    test_instants_that_no_clock_shows_hinder_nobody,
    test_rules_count_from_the_instant_and_the_retention_by_the_day_that_a_row_is_given,
)
