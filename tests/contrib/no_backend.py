"""Settings of a project whose tasks are run by something else."""

from __future__ import annotations
