-- The old statements of saas.

-- OLD
CREATE TABLE tenants (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), name TEXT NOT NULL);
CREATE TYPE job_status AS ENUM ('pending', 'processing', 'completed', 'failed');
CREATE TABLE job_queue (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id UUID NOT NULL REFERENCES tenants(id) ON DELETE CASCADE, type TEXT NOT NULL, status job_status NOT NULL DEFAULT 'pending',
 payload JSONB NOT NULL DEFAULT '{}', result JSONB, worker_id TEXT, attempts INTEGER NOT NULL DEFAULT 0, next_retry_at TIMESTAMPTZ, created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), completed_at TIMESTAMPTZ);
CREATE INDEX idx_job_queue_tenant_id ON job_queue (tenant_id); CREATE INDEX idx_job_queue_status_created_at ON job_queue (status, created_at); CREATE INDEX idx_job_queue_type ON job_queue (type);

-- CLAIM
UPDATE job_queue 
SET status='processing', worker_id='%s'
WHERE id = (
  SELECT id 
  FROM job_queue 
  WHERE status='pending' 
  ORDER BY created_at 
  LIMIT 1 
  FOR UPDATE SKIP LOCKED
) 
RETURNING *;

-- ADD
INSERT INTO job_queue (tenant_id, type, payload) VALUES ($1, $2, $3) RETURNING id;

-- DONE
UPDATE job_queue SET status='completed', result=$2, completed_at=NOW() WHERE id=$1;

-- AGAIN
UPDATE job_queue SET status='pending', attempts = attempts + 1, next_retry_at = NOW() + interval '1 hour' WHERE id=$1;

-- FAILED
UPDATE job_queue SET status='failed', completed_at=NOW() WHERE id=$1;
