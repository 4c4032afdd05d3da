-- Makes the draft $1 of a job held under the token $2 an artifact, of the size $3 and the SHA-256 $4, and waits for the disk, which
-- the session does not. Returns whether the artifact is complete.
select
    pushq.complete_artifact($1, $2, $3, $4) as is_complete,
    set_config('synchronous_commit', 'on', true)
