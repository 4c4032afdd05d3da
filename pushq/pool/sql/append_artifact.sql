-- Adds the piece $4 to the draft $1 of a job held under the token $2, at the place $3. $5: the largest size of an artifact. $6: bytes
-- that jobs of a tenant may write on a day. Returns the size, or null: the draft is gone, or the job no longer held.
select pushq.append_artifact($1, $2, $3, $4, $5, $6) as size
