-- The artifacts of the job $1, by name; all, or the one named $2.
select
    artifact.id, artifact.job_id, artifact.name, artifact.content_type, artifact.size, encode(artifact.sha256, 'hex') as sha256,
    artifact.attempt, artifact.created_at, artifact.pieces
from pushq.artifacts as artifact
where artifact.job_id = $1 and ($2::text is null or artifact.name = $2)
order by artifact.name
