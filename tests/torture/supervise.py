"""`python -m tests.torture.supervise …`: `pushq …`, with the bug that PUSHQ_TEST_PLANTED names, if any."""

from __future__ import annotations

import os

from pushq.cli import main
from tests.torture.planted import plant

plant(os.environ.get("PUSHQ_TEST_PLANTED"))
main()
