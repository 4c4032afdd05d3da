-- The old statements of ingest.

-- OLD
CREATE TABLE IF NOT EXISTS graphiti_jobs ( job_id UUID PRIMARY KEY, job_type TEXT NOT NULL CHECK (job_type IN ('bulk', 'single')), payload JSONB NOT NULL,
 status TEXT NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'running', 'committed', 'failed')), enqueued_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), started_at TIMESTAMPTZ, finished_at TIMESTAMPTZ, error TEXT, summary JSONB, submitted_by TEXT );
CREATE INDEX IF NOT EXISTS idx_graphiti_jobs_queued ON graphiti_jobs (enqueued_at) WHERE status = 'queued';
CREATE INDEX IF NOT EXISTS idx_graphiti_jobs_status ON graphiti_jobs (status);
CREATE TABLE IF NOT EXISTS stage_3_queue (id bigint generated always as identity primary key, body jsonb not null, created_at timestamptz not null default now(), completed_at timestamptz, failed_at timestamptz, error text);
ALTER TABLE stage_3_queue ADD COLUMN IF NOT EXISTS external_job_id UUID;
CREATE INDEX IF NOT EXISTS idx_stage_3_queue_external_job ON stage_3_queue (external_job_id) WHERE external_job_id IS NOT NULL AND completed_at IS NULL AND failed_at IS NULL;

-- STAGE_AGAIN
ALTER TABLE stage_3_queue ADD COLUMN IF NOT EXISTS external_job_id UUID;
CREATE INDEX IF NOT EXISTS idx_stage_3_queue_external_job ON stage_3_queue (external_job_id) WHERE external_job_id IS NOT NULL AND completed_at IS NULL AND failed_at IS NULL;

-- SUBMIT
INSERT INTO graphiti_jobs (job_id, job_type, payload, submitted_by) VALUES ($1, $2, $3, $4);

-- WATCH
SELECT status, error, summary, started_at, finished_at FROM graphiti_jobs WHERE job_id = $1;

-- PICK
SELECT job_id, job_type, payload FROM graphiti_jobs WHERE status = 'queued' ORDER BY enqueued_at LIMIT 1 FOR UPDATE SKIP LOCKED;

-- START
UPDATE graphiti_jobs SET status = 'running', started_at = NOW() WHERE job_id = $1 AND status = 'queued';

-- COMMIT
UPDATE graphiti_jobs SET status = 'committed', finished_at = NOW(), summary = $2 WHERE job_id = $1;

-- FAIL
UPDATE graphiti_jobs SET status = 'failed', finished_at = NOW(), error = $2 WHERE job_id = $1;

-- RESUME
UPDATE graphiti_jobs SET status = 'queued', started_at = NULL WHERE status = 'running';

-- RECOVER
SELECT s.id, s.external_job_id, g.status, g.error, g.summary FROM stage_3_queue s LEFT JOIN graphiti_jobs g ON g.job_id = s.external_job_id
 WHERE s.external_job_id IS NOT NULL AND s.completed_at IS NULL AND s.failed_at IS NULL ORDER BY s.id;

-- METRICS
SELECT count(*), avg(finished_at - started_at), sum((summary->>'nodes')::int) FROM graphiti_jobs WHERE status = 'committed';
