-- Begins the artifact $3, of content type $4, of the job $1 held under the token $2, which may have $5 artifacts. Returns its id, or
-- null: the job is no longer held.
select pushq.begin_artifact($1, $2, $3, $4, $5) as id
