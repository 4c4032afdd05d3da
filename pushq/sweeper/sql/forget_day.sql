-- The partition of day $1 is gone.
delete from pushq.days where day = $1 and retired_at is not null
