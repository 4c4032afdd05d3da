"""Keys: one call inserts a job, or says which job stands in its way."""

from __future__ import annotations

from tests.promises.test_keys import (
    test_a_batch_returns_a_row_for_each_job_in_the_order_given,
    test_of_eight_at_once_one_inserts_and_all_get_its_id,
    test_whatever_others_do_at_the_same_time_a_call_ends_with_a_job,
    test_within_a_window_no_second_job_is_inserted_even_if_the_first_is_finished,
)
from tests.security.conftest import app, logins, separated
from tests.security.test_keys import test_a_producer_may_and_reads_nothing
from tests.security.test_tenants import (
    test_a_tenant_s_keys_are_its_own_and_it_learns_nothing_of_another_s,
)
