-- Gives up the draft $1 that was begun under the token $2.
select pushq.discard_artifact($1, $2)
