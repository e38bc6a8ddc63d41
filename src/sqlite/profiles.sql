-- The embedded state, version 8: profiles of methods.

CREATE TABLE profiles (
    slot     INTEGER NOT NULL,              -- when its five minutes began
    session  TEXT    NOT NULL,
    protocol TEXT    NOT NULL,
    method   TEXT    NOT NULL,
    profile  TEXT    NOT NULL,              -- as wire::profile writes it
    PRIMARY KEY (slot, session, protocol, method)
) WITHOUT ROWID;
