-- The embedded state, version 2: schedules.

CREATE TABLE schedules (
    name       TEXT    PRIMARY KEY,
    generation INTEGER NOT NULL,
    state      TEXT    NOT NULL,            -- active, paused, removed
    definition BLOB    NOT NULL,
    armed      INTEGER,                     -- the slot that fires next
    holder     TEXT,                        -- who is firing it
    held_until INTEGER NOT NULL DEFAULT 0,
    last_slot  INTEGER,
    last_run   TEXT,
    fired      INTEGER NOT NULL DEFAULT 0,
    missed     INTEGER NOT NULL DEFAULT 0,
    overlapped INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    forget_at  INTEGER                      -- of a removed one
) WITHOUT ROWID;
CREATE INDEX schedules_forget ON schedules (forget_at) WHERE forget_at IS NOT NULL;
