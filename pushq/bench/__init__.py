"""`pushq bench`: how fast pushq is on a machine and a server, each figure beside the limit of machine and server.

Theory of operation
-------------------
A figure alone says more about the machine than about pushq. So each scenario also measures a limit: the same statements
in a bare loop, a raw notification, a table without a trigger, an empty database. A round measures value and limit, one
after the other, and takes the ratio. A figure is the median of the rounds' values, with the median of the rounds'
ratios. A slow moment of the machine slows value and limit, and mostly cancels out.

Before each round a calibration computes and commits a fixed amount of work. A machine on which the calibration varies
too much is called too noisy; the figures are printed all the same.

All databases are fresh, and dropped at the end (ground.py). Real supervisors run the jobs, as an operator starts
supervisors (supervisors.py). A bare connection or pgbench inserts the jobs.

Rounds may be recorded in a file as they end, and a later run goes on where the last run stopped (run.py).
"""
