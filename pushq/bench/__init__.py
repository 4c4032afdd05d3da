"""`pushq bench`: how fast pushq is on a machine and a server, each figure by the limit of that machine and server.

Theory of operation
-------------------
A figure alone says more about the machine than about pushq. So each scenario measures beside it what bounds it: the
same statements in a bare loop, a raw notification, a table without a trigger, an empty database. A round measures both,
one after the other, and its ratio is that of its own two values; a figure is the median of its rounds, and its ratio
the median of their ratios. What slows the machine down for a while slows both, and mostly cancels out.

Before each round a calibration computes and commits something that never changes. A machine on which that varies too
much is called too noisy, and its figures are printed all the same.

Everything happens in fresh databases of their own (ground.py), which are dropped at the end. What runs the jobs are
real supervisors, as an operator starts them (supervisors.py); what inserts them is a bare connection, or pgbench.

Rounds may be recorded in a file as they end, and a later run goes on where the last one stopped (run.py).
"""
