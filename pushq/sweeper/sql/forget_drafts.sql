-- Gives up artifacts whose writers have lost their job, a bounded number. Returns how many.
select pushq.forget_drafts() as drafts
