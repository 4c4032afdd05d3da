-- Notes why ($3) the job of slot $2 of schedule $1 was not inserted, and when the slot is tried again.
select pushq.refuse_slot($1, $2, $3)
