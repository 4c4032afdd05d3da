-- Lets INSERTs look for no webhook, if no webhook tells that a job was queued: pushq.rest_inserts() explains.
select pushq.rest_inserts()
