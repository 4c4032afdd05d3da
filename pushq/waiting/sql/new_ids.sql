-- $1 ids for new jobs, which ascend.
select pushq.uuidv7() as id
from generate_series(1, $1::int)
