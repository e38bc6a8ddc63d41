-- The embedded state, version 6: what running tasks give.

CREATE TABLE output (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    root      TEXT    NOT NULL,
    task      TEXT    NOT NULL,             -- empty: a task on its own
    attempt   INTEGER NOT NULL,
    fence     INTEGER NOT NULL,
    kind      TEXT    NOT NULL,             -- the stream of a piece; else 'truncated' or 'end'
    at        INTEGER NOT NULL,             -- of a piece: its offset
    text      TEXT    NOT NULL,             -- of an end: the state of the task since
    sum       INTEGER NOT NULL,             -- what all entries of the root count up to this one, in bytes
    forget_at INTEGER NOT NULL
);
CREATE INDEX output_root ON output (root, seq);
CREATE INDEX output_forget ON output (forget_at);

ALTER TABLE tasks ADD COLUMN given_by INTEGER NOT NULL DEFAULT 0;    -- the fence of the lease that has given something
ALTER TABLE tasks ADD COLUMN given    INTEGER NOT NULL DEFAULT 0;    -- where its last piece ends; -1: no more is kept
