"""`pushq bench --peers DIRECTORY`: pushq beside other queues on PostgreSQL, in the same rounds on the same server.

Theory of operation
-------------------
Each system is installed from its registry into DIRECTORY, in the versions of catalogue.py, which also holds each
system's best configuration by its own documentation (installed.py).

Each system runs in a process of its own, in its own language, through its own client. An adapter (adapters/) says how
the system does a thing, and a driver (driver.py, driver.mjs), the same for all systems of a language, says what is done
and when a clock is read (program.py). pushq takes part as one of the systems.

In a round, each system has a fresh database, one after the other, in an order that changes from round to round
(contest.py). A figure is pushq's. Its limit is a peer's figure of the same round, so its ratio compares the two.
"""
