"""Django's Tasks."""

from __future__ import annotations

from tests.contrib.test_django import (
    onlooker,
    supervisor,
    test_a_task_is_enqueued_as_a_job,
    test_a_task_is_gone_once_django_has_rolled_back,
    test_tasks_run_and_return,
    test_tasks_that_fail_tell_why,
)
