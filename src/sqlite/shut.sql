-- The embedded state, version 5: a bucket that was shut stays so, whatever is given back; keys of limits are no longer
-- written as they are, but hashed; and what only those know who may read this file.

ALTER TABLE limits ADD COLUMN full_not_before REAL NOT NULL DEFAULT 0;   -- in microseconds
DELETE FROM limits WHERE key <> '';                                      -- each is full again

CREATE TABLE secrets (
    name   TEXT NOT NULL PRIMARY KEY,       -- what it is for
    secret TEXT NOT NULL
) WITHOUT ROWID;
