"""Processes that commands, benchmark and tests start for themselves: a PostgreSQL, a supervisor.

Each dies with its parent.
"""
