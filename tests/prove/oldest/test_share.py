"""Tenants, changes by hand, guests, waits, cancels that reach the handler, events, progress and webhooks."""

from __future__ import annotations

from tests.promises.conftest import store
from tests.promises.test_changes import (
    test_a_change_is_made_if_the_table_has_it_and_the_job_the_expected_status,
    test_a_job_that_is_to_start_sooner_wakes_an_idle_pool,
)
from tests.promises.test_events import (
    test_a_follower_sees_every_event_once_however_late_its_transaction_commits,
    test_an_update_by_hand_keeps_the_old_and_the_new_values,
    test_every_day_that_takes_finished_jobs_takes_events,
    test_the_switch_holds_for_jobs_that_are_claimed_after_it,
)
from tests.promises.test_guests import (
    test_a_detached_job_takes_no_worker_and_outlives_its_pool,
    test_a_guest_ends_a_job_or_gives_it_back,
    test_a_guest_that_dies_loses_its_jobs_for_a_crash_and_its_late_outcome_is_refused,
    test_many_guests_that_take_and_finish_at_once_never_deadlock,
    test_the_next_job_is_the_most_urgent_that_a_pool_would_take,
)
from tests.promises.test_progress import (
    test_the_next_attempt_finds_the_checkpoint_after_a_failure_a_crash_and_a_retry_by_hand,
)
from tests.promises.test_recalls import (
    test_a_job_that_is_being_cancelled_ends_with_its_pool,
    test_an_async_handler_is_cancelled_and_its_worker_takes_the_next_job,
)
from tests.promises.test_waiting import (
    test_in_any_language_the_channel_is_given_with_the_insert,
    test_of_many_waits_before_during_and_after_the_end_all_end_soon,
    waiting,
)
from tests.promises.test_webhooks import (
    test_410_pauses_the_subscription_and_ends_the_delivery,
    test_the_deliveries_of_a_job_arrive_in_order_even_if_the_first_fails,
)
from tests.security.conftest import app, logins, separated
from tests.security.test_tenants import (
    test_a_tenant_by_setting_reaches_its_own_jobs_and_without_a_setting_none,
    test_a_tenant_changes_its_own_jobs_and_learns_nothing_of_another_s,
    test_a_tenant_is_deleted_in_steps_running_jobs_and_finished_ones_included,
    test_a_tenant_reads_the_events_of_its_own_jobs_and_not_who_made_them,
    test_a_tenant_s_session_stays_the_tenant_s_whatever_role_it_sets,
    test_code_of_a_tenant_that_another_session_runs_reaches_the_tenant_s_jobs_alone,
    test_supervisors_run_everybody_s_jobs_and_each_tenant_sees_its_own,
    test_tenants_are_separated_once_and_again_what_a_restore_has_lost,
    test_whoever_inherits_a_tenant_s_role_is_this_tenant_and_who_inherits_two_names_one,
)
