-- Version 2 of the job store: lists read no request, principals have a limit of bytes and take turns,
-- and a job knows how far it has come.

-- What a list shows of a job beside its row. The work itself is long, and read by its worker alone;
-- that of a job which never ran goes as soon as that is known.
CREATE TABLE summaries (
    job_id  TEXT NOT NULL PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    summary TEXT NOT NULL,                          -- JSON: what is shown of the work
    options TEXT NOT NULL                           -- JSON
) STRICT;

ALTER TABLE jobs ADD COLUMN stored_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN losses INTEGER NOT NULL DEFAULT 0;     -- in a row, without progress
ALTER TABLE jobs ADD COLUMN milestone INTEGER NOT NULL DEFAULT 0;  -- the furthest that was saved
ALTER TABLE jobs ADD COLUMN advanced INTEGER NOT NULL DEFAULT 0;   -- whether by the newest claim

-- What is stored for each principal, kept in the transaction that changes it.
CREATE TABLE stored (
    principal TEXT    NOT NULL PRIMARY KEY,
    bytes     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER bytes_of_new_job AFTER INSERT ON jobs BEGIN
    INSERT INTO stored VALUES (new.principal, new.stored_bytes)
        ON CONFLICT (principal) DO UPDATE SET bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER bytes_of_changed_job AFTER UPDATE OF stored_bytes ON jobs BEGIN
    INSERT INTO stored VALUES (new.principal, new.stored_bytes - old.stored_bytes)
        ON CONFLICT (principal) DO UPDATE SET bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER bytes_of_forgotten_job AFTER DELETE ON jobs BEGIN
    UPDATE stored SET bytes = bytes - old.stored_bytes WHERE principal = old.principal;
END;

INSERT INTO stored
    SELECT principal, SUM(length(CAST(scores AS BLOB))) FROM scores GROUP BY principal;

CREATE TRIGGER bytes_of_new_scores AFTER INSERT ON scores BEGIN
    INSERT INTO stored VALUES (new.principal, length(CAST(new.scores AS BLOB)))
        ON CONFLICT (principal) DO UPDATE SET bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER bytes_of_changed_scores AFTER UPDATE OF scores ON scores BEGIN
    UPDATE stored
        SET bytes = bytes + length(CAST(new.scores AS BLOB)) - length(CAST(old.scores AS BLOB))
        WHERE principal = new.principal;
END;

CREATE TRIGGER bytes_of_forgotten_scores AFTER DELETE ON scores BEGIN
    UPDATE stored SET bytes = bytes - length(CAST(old.scores AS BLOB))
        WHERE principal = old.principal;
END;

-- When each principal was served last: a number that grows with each claim.
CREATE TABLE turns (
    principal TEXT    NOT NULL PRIMARY KEY,
    served    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX turns_by_time ON turns (served);

-- Each principal's line at each priority; a job that must wait for its next try is passed over
-- within the index.
DROP INDEX jobs_by_turn;
CREATE INDEX jobs_by_turn ON jobs (priority DESC, principal, id, not_before)
    WHERE state = 'queued';

PRAGMA user_version = 2;
