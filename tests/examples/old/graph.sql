-- The old statements of graph.

-- OLD
CREATE SCHEMA IF NOT EXISTS scheduler;
CREATE TABLE scheduler.graph_jobs (id UUID PRIMARY KEY, tenant_id TEXT NOT NULL, type SMALLINT NOT NULL, status SMALLINT NOT NULL, payload JSONB NOT NULL,
 created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), correlation_id TEXT NULL);
CREATE INDEX idx_graph_jobs_tenant_status ON scheduler.graph_jobs (tenant_id, status, created_at DESC);
CREATE INDEX idx_graph_jobs_tenant_type_status ON scheduler.graph_jobs (tenant_id, type, status, created_at DESC);
CREATE TABLE scheduler.graph_job_events (id BIGSERIAL PRIMARY KEY, job_id UUID NOT NULL REFERENCES scheduler.graph_jobs(id) ON DELETE CASCADE, tenant_id TEXT NOT NULL, status SMALLINT NOT NULL, payload JSONB NOT NULL, created_at TIMESTAMPTZ NOT NULL DEFAULT NOW());
CREATE INDEX idx_graph_job_events_job ON scheduler.graph_job_events (job_id, created_at DESC);

-- INSERT
INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, updated_at, correlation_id) VALUES ($1,$2,$3,0,$4,NOW(),NOW(),$5);

-- REPLACE
UPDATE scheduler.graph_jobs SET status = $4, payload = $5, updated_at = NOW() WHERE tenant_id = $1 AND id = $2 AND type = $6 AND status = $3;

-- GET
SELECT payload FROM scheduler.graph_jobs WHERE tenant_id = $1 AND id = $2 AND type = $3;

-- LIST
SELECT id FROM scheduler.graph_jobs WHERE tenant_id = $1 AND type = $2 ORDER BY created_at DESC LIMIT $3;

-- LIST_BY
SELECT id FROM scheduler.graph_jobs WHERE tenant_id = $1 AND type = $2 AND status = $3 ORDER BY created_at DESC LIMIT $4;

-- BY_STATUS
SELECT id FROM scheduler.graph_jobs WHERE tenant_id = $1 AND status = $2 ORDER BY created_at DESC LIMIT $3;

-- EVENT
INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload) VALUES ($1,$2,$3,$4);

-- EVENTS
SELECT status FROM scheduler.graph_job_events WHERE job_id = $1 ORDER BY created_at, id;
