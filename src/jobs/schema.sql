-- Version 1 of the job store. Times are microseconds since 1970 (UTC).

-- Small rows that change often. What a page needs to choose is here; the work, which is long and
-- never changes, stands beside it.
CREATE TABLE jobs (
    id               TEXT    NOT NULL PRIMARY KEY,  -- UUID version 7: its order is that of creation
    principal        TEXT    NOT NULL,
    request_id       TEXT    NOT NULL,
    request_digest   TEXT    NOT NULL,
    work_digest      TEXT    NOT NULL,
    kind             TEXT    NOT NULL,
    base_model       TEXT    NOT NULL,
    priority         INTEGER NOT NULL,
    deadline         INTEGER,
    state            TEXT    NOT NULL,
    attempt          INTEGER NOT NULL,
    max_attempts     INTEGER NOT NULL,
    fence            INTEGER NOT NULL,
    worker           TEXT,                          -- set with lease_until, while it is held
    lease_until      INTEGER,
    not_before       INTEGER,
    cancel_requested INTEGER NOT NULL,
    last_sequence    INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    expires_at       INTEGER,                       -- set once it is done
    due_at           INTEGER,                       -- the deadline, until it is done
    progress         TEXT,                          -- JSON
    result           TEXT,                          -- JSON: the outcome or the failure, once it is done
    UNIQUE (principal, request_id)
) STRICT;

-- The order of claims; a job that must wait for its next try is passed over within the index.
CREATE INDEX jobs_by_turn ON jobs (priority DESC, id, not_before) WHERE state = 'queued';
CREATE INDEX jobs_by_principal ON jobs (principal, id);
CREATE INDEX jobs_by_principal_and_state ON jobs (principal, state, id);
CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE INDEX jobs_by_principal_and_kind ON jobs (principal, kind, id);
CREATE INDEX jobs_by_principal_and_model ON jobs (principal, base_model, id);
CREATE INDEX jobs_by_work ON jobs (principal, work_digest, id) WHERE state = 'succeeded';
CREATE INDEX jobs_by_lease ON jobs (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX jobs_by_deadline ON jobs (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_by_expiry ON jobs (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE works (
    job_id  TEXT NOT NULL PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    work    TEXT NOT NULL,                          -- JSON
    options TEXT NOT NULL                           -- JSON
) STRICT;

CREATE TABLE labels (
    name   TEXT NOT NULL,
    value  TEXT NOT NULL,
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    PRIMARY KEY (name, value, job_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX labels_by_job ON labels (job_id);

CREATE TABLE events (
    job_id      TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    sequence    INTEGER NOT NULL,                   -- from 1, without gaps
    recorded_at INTEGER NOT NULL,
    body        TEXT    NOT NULL,                   -- JSON
    PRIMARY KEY (job_id, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE scores (
    principal TEXT    NOT NULL,
    digest    TEXT    NOT NULL,
    scores    TEXT    NOT NULL,                     -- JSON
    stored_at INTEGER NOT NULL,
    PRIMARY KEY (principal, digest)
) STRICT;
CREATE INDEX scores_by_age ON scores (stored_at);

-- How many jobs are in which state, kept in the transaction that changes them, so that neither a
-- limit nor a metric counts rows.
CREATE TABLE tallies (
    state     TEXT    NOT NULL,
    principal TEXT    NOT NULL,
    jobs      INTEGER NOT NULL,
    PRIMARY KEY (state, principal)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER tally_of_new_job AFTER INSERT ON jobs BEGIN
    INSERT INTO tallies VALUES (new.state, new.principal, 1)
        ON CONFLICT (state, principal) DO UPDATE SET jobs = jobs + 1;
END;

CREATE TRIGGER tally_of_changed_job AFTER UPDATE OF state ON jobs WHEN old.state <> new.state BEGIN
    UPDATE tallies SET jobs = jobs - 1 WHERE state = old.state AND principal = old.principal;
    INSERT INTO tallies VALUES (new.state, new.principal, 1)
        ON CONFLICT (state, principal) DO UPDATE SET jobs = jobs + 1;
END;

CREATE TRIGGER tally_of_forgotten_job AFTER DELETE ON jobs BEGIN
    UPDATE tallies SET jobs = jobs - 1 WHERE state = old.state AND principal = old.principal;
END;

-- Written and read back to see whether the store works.
CREATE TABLE probe (
    only  INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    value INTEGER NOT NULL
) STRICT;
INSERT INTO probe VALUES (1, 0);

PRAGMA user_version = 1;
