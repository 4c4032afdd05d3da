-- Lets INSERTs look for no rules, if no rule gives jobs needs, as pushq.rest_needs() explains; and forgets up to $1 rates whose bursts
-- are whole again. Returns how many rates were forgotten.
select pushq.forget_tokens($1) as rates
from pushq.rest_needs()
