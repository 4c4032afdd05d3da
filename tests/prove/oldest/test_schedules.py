"""Schedules: slots, changes, errors, rights."""

from __future__ import annotations

from tests.promises.test_schedules import (
    test_a_schedule_runs_and_the_bell_tells_of_each_change,
    test_a_schedule_that_code_declares_is_a_row_and_runs,
)
from tests.supervisor.test_schedules import (
    test_a_job_that_the_database_refuses_is_tried_again_and_stops_nobody,
    test_a_paused_schedule_inserts_nothing_and_does_not_make_up_for_its_pause,
    test_a_row_that_cannot_be_is_refused_by_a_rule_with_a_name,
    test_a_row_that_names_name_cron_and_task_is_enough,
    test_a_schedule_has_times_of_one_kind_and_its_name_once,
    test_a_slot_has_one_job_however_many_keep_schedules,
    test_after_a_week_without_a_supervisor,
    test_an_interval_needs_no_supervisor_to_know_its_next_slot,
    test_looks_are_by_index_however_many_schedules_there_are,
    test_who_produces_jobs_writes_schedules_and_reads_no_payload,
)
