-- What this role may do: insert jobs; look at jobs, as for lists; run jobs, as for a supervisor.
select
    has_schema_privilege('pushq', 'usage') and has_column_privilege('pushq.jobs', 'task', 'insert') as may_insert,
    has_schema_privilege('pushq', 'usage') and has_table_privilege('pushq.jobs', 'select')
        and has_table_privilege('pushq.supervisors', 'select') as may_look,
    has_schema_privilege('pushq', 'usage') and has_table_privilege('pushq.jobs_unfinished', 'update')
        and has_table_privilege('pushq.jobs', 'delete') and has_table_privilege('pushq.supervisors', 'insert') as may_run
