-- Asks that channel $2 be notified when the jobs $1 end, in the order of ids. Returns the ids of the jobs for which it will be.
select wanted.id
from (select unnest($1::uuid[]) as id order by 1) as wanted
where pushq.watch(wanted.id, $2)
