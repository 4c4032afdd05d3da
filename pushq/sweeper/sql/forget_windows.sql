-- Deletes up to $1 closed windows of unique keys. Returns the number of deleted windows.
select pushq.forget_windows($1) as windows
