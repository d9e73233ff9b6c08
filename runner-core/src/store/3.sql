-- Reservations that wait for their workers.
CREATE TABLE queue (
    id      TEXT PRIMARY KEY,
    profile TEXT NOT NULL,
    owner   TEXT NOT NULL,
    since   TEXT NOT NULL,
    json    TEXT NOT NULL
) STRICT;

-- Reservations that ended, for jobs that ask for them again. Only the newest are kept; `at` is in
-- microseconds since 1970.
CREATE TABLE ended_reservations (
    id   TEXT PRIMARY KEY,
    at   INTEGER NOT NULL,
    json TEXT NOT NULL
) STRICT;
