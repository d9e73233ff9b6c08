-- What people asked of the running pool.
CREATE TABLE holds (
    worker TEXT PRIMARY KEY,
    asker  TEXT NOT NULL,
    until  TEXT NOT NULL,
    json   TEXT NOT NULL
) STRICT;

CREATE TABLE dismissals (
    worker TEXT PRIMARY KEY,
    asker  TEXT NOT NULL,
    json   TEXT NOT NULL
) STRICT;

CREATE TABLE adjustments (
    profile TEXT PRIMARY KEY,
    asker   TEXT NOT NULL,
    json    TEXT NOT NULL
) STRICT;

-- What was seen of a worker just before its machine was destroyed. Only the newest are kept.
CREATE TABLE flights (
    number     INTEGER PRIMARY KEY,
    worker     TEXT NOT NULL UNIQUE,
    at         TEXT NOT NULL,
    json       TEXT NOT NULL,
    screenshot BLOB
) STRICT;

CREATE INDEX events_by_subject ON events (subject);
