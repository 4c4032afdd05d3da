-- What the old app asks (model server). It runs upon the views.

-- OLD
create table jobs (
    id text primary key,
    model text not null,
    payload bytea not null,
    state text not null,
    result bytea,
    error text,
    attempt integer not null default 0,
    max_attempts integer not null default 0,
    state_webhook_url text,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    started_at timestamptz,
    completed_at timestamptz
);
create table artifacts (
    id bigint generated always as identity primary key,
    job_id text not null references jobs (id),
    name text not null,
    content_type text not null,
    data bytea not null,
    size bigint not null,
    created_at timestamptz not null
);

-- CREATE
INSERT INTO jobs (id, model, payload, state, attempt, max_attempts, state_webhook_url, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- GET
SELECT id, model, payload, state, result, error, attempt, max_attempts, state_webhook_url, created_at, updated_at, started_at, completed_at
FROM jobs WHERE id = $1;

-- LIST
SELECT id, model, payload, state, result, error, attempt, max_attempts, state_webhook_url, created_at, updated_at, started_at, completed_at
FROM jobs ORDER BY created_at DESC;

-- LIST_BY_STATE
SELECT id, model, payload, state, result, error, attempt, max_attempts, state_webhook_url, created_at, updated_at, started_at, completed_at
FROM jobs WHERE state = $1 ORDER BY created_at DESC;

-- ATTACH
INSERT INTO artifacts (job_id, name, content_type, data, size, created_at) VALUES ($1, $2, $3, $4, $5, $6);

-- FETCH
SELECT id, job_id, name, content_type, data, size, created_at FROM artifacts WHERE job_id = $1 AND name = $2;

-- FETCH_ALL
SELECT id, job_id, name, content_type, data, size, created_at FROM artifacts WHERE job_id = $1 ORDER BY name;

-- EXPIRE_ARTIFACTS
DELETE FROM artifacts WHERE job_id IN (SELECT id FROM jobs WHERE state IN ('done', 'failed') AND completed_at < $1);

-- EXPIRE_JOBS
DELETE FROM jobs WHERE state IN ('done', 'failed') AND completed_at < $1;
