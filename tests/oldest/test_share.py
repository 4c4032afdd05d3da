"""Tenants, changes by hand, guests, waits, and cancels that reach the handler."""

from __future__ import annotations

from tests.promises.test_changes import *
from tests.promises.test_guests import *
from tests.promises.test_recalls import *
from tests.promises.test_waiting import *
from tests.security.conftest import logins
from tests.security.test_tenants import *
