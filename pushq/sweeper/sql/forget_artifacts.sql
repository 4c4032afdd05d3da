-- Looks at the next $2 artifacts after the id $1, and deletes those whose job is gone. last: where to go on. outlived: whether more
-- of days that are past retention may follow.
select looked, forgotten, last, outlived from pushq.forget_artifacts($1, $2)
