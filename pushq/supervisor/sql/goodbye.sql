-- Supervisor $1 has stopped and holds no jobs.
delete from pushq.supervisors where name = $1
