-- Takes the wish back: channel $2 need not be notified when the jobs $1 end.
select pushq.unwatch(wanted.id, $2)
from (select unnest($1::uuid[]) as id order by 1) as wanted
