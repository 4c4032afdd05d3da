"""`pushq`, to which a solo pool is slow after half a second."""

from __future__ import annotations

import pushq.supervisor.solo
from pushq.cli import main

pushq.supervisor.solo.SLOW_AFTER = 0.5

if __name__ == "__main__":
    main()
