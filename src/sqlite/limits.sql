-- The embedded state, version 4: buckets of limits that all workers share.

CREATE TABLE limits (
    name       TEXT    NOT NULL,
    key        TEXT    NOT NULL,            -- empty: the limit has one bucket; else '=' and the key's UUIDv5
    full_at    REAL    NOT NULL,            -- in microseconds
    per_second REAL    NOT NULL,
    burst      REAL    NOT NULL,
    since      INTEGER NOT NULL,            -- when whoever says so has read its configuration
    forget_at  INTEGER NOT NULL,
    PRIMARY KEY (name, key)
) WITHOUT ROWID;
CREATE INDEX limits_forget ON limits (forget_at);
