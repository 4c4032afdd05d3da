-- Inserts jobs, or finds those that stand in their way: $1 an array of jobs, as JSON text, as pushq.enqueue_many() takes it, $2 standing,
-- $3 key_window, $4 longest_delay. Returns ids, and whether each job was inserted, in the order given.
select id, inserted
from pushq.enqueue_many($1::text::jsonb, $2::text, $3::interval, $4::interval)
order by place
