CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- One row for each worker, written before the first side effect.
CREATE TABLE workers (
    name       TEXT PRIMARY KEY,
    profile    TEXT NOT NULL,
    forge      TEXT NOT NULL,
    runner     TEXT,
    created_at TEXT NOT NULL,
    json       TEXT NOT NULL
) STRICT;

CREATE TABLE reservations (
    id      TEXT PRIMARY KEY,
    profile TEXT NOT NULL,
    owner   TEXT NOT NULL,
    until   TEXT NOT NULL,
    json    TEXT NOT NULL
) STRICT;

CREATE TABLE events (
    id      INTEGER PRIMARY KEY,
    at      TEXT NOT NULL,
    subject TEXT NOT NULL,
    text    TEXT NOT NULL,
    json    TEXT NOT NULL
) STRICT;

-- The local queue. A job that has not ended is in memory too.
CREATE TABLE jobs (
    number    INTEGER PRIMARY KEY,
    id        TEXT NOT NULL UNIQUE,
    state     TEXT NOT NULL,
    profile   TEXT,
    queued_at TEXT NOT NULL,
    ended_at  TEXT,
    json      TEXT NOT NULL
) STRICT;

CREATE TABLE job_inputs (
    job     TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    path    TEXT NOT NULL,
    mode    INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (job, path)
) STRICT;

-- What a job wrote: chunks that follow each other without a gap.
CREATE TABLE job_log (
    job    TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    start  INTEGER NOT NULL,
    chunk  BLOB NOT NULL,
    PRIMARY KEY (job, start)
) STRICT;

CREATE TABLE job_outputs (
    job  TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    tar  BLOB NOT NULL
) STRICT;

CREATE TABLE local_runners (
    name TEXT PRIMARY KEY,
    json TEXT NOT NULL
) STRICT;
