-- The piece at the place $2 of the artifact $1. Null if the artifact is gone.
select pushq.artifact_piece($1, $2) as data
