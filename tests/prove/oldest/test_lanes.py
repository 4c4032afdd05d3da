"""Jobs that share things: needs, lanes, limits, rates, why a job waits, and the corners."""

from __future__ import annotations

from tests.promises.test_lanes import (
    test_a_capacity_that_is_raised_lets_those_that_wait_begin_at_once,
    test_a_job_waits_for_all_of_its_units_and_a_stream_of_smaller_ones_does_not_starve_it,
    test_a_queue_runs_no_more_jobs_at_once_than_its_capacity,
    test_a_rate_is_kept_by_several_supervisors_without_any_polling,
    test_jobs_that_need_the_same_run_one_after_the_other_whichever_supervisor_takes_them,
    test_plain_jobs_and_jobs_with_needs_do_not_hold_one_another_up,
    test_units_of_a_pool_that_died_are_free_for_others,
)
from tests.promises.test_why import (
    test_a_capacity_below_what_a_job_needs_is_told,
    test_each_cause_is_a_sentence_and_data,
    test_the_next_token_of_a_rate_is_told,
    test_the_position_is_the_rank_among_jobs_that_are_due_by_then_whatever_they_need,
    test_what_a_job_lacks_is_told_with_who_holds_it,
    test_what_keeps_each_job_waiting_is_what_a_computation_of_its_own_finds,
)
from tests.prove.promises.test_lanes_corners import (
    test_a_drain_gives_the_units_of_jobs_that_it_stops_back_at_once,
    test_a_guest_takes_the_next_job_that_fits,
    test_a_job_that_is_cancelled_holds_its_units_until_its_handler_has_stopped,
    test_a_lane_of_a_paused_queue_goes_on_no_further,
    test_a_look_at_new_jobs_is_also_at_all_that_wait_for_units,
    test_a_suspect_waits_for_its_units_and_gives_them_back,
    test_a_token_that_comes_while_a_pool_asks_for_it_is_not_slept_over,
    test_jobs_with_several_names_get_all_of_them_or_none_and_nobody_waits_for_ever,
    test_many_jobs_that_lack_some_of_their_units_do_not_hold_up_one_behind_them,
    test_of_five_thousand_lanes_the_one_that_is_free_is_found,
    test_the_most_urgent_begins_first_within_a_lane_and_across_lanes,
    test_units_that_a_transaction_gives_back_are_taken_by_a_job_inserted_before_its_commit,
    test_what_a_job_in_line_had_reserved_is_taken_when_the_job_leaves_its_place,
)
