-- Deletes counts of bytes that tenants have written on days before yesterday, a bounded number. Returns how many.
select pushq.forget_artifact_bytes() as counts
