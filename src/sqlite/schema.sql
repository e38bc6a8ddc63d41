-- The embedded state, version 1. Times are milliseconds since 1970 in UTC. States are written by name, so
-- that any SQLite tool shows them readable.

-- Who uses the file. A row is dead when its process is; what it held is then free.
CREATE TABLE processes (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    pid     INTEGER NOT NULL,
    started INTEGER NOT NULL,           -- clock ticks since boot, from /proc/PID/stat
    boot    TEXT    NOT NULL,           -- which boot of the machine
    space   TEXT    NOT NULL,           -- which pid namespace
    seen_at INTEGER NOT NULL            -- the only evidence across pid namespaces
);

-- ---------------------------------------------------------------- broker

CREATE TABLE queues (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- Messages that are ready (owner null) or delivered (owner set). `id` is the place in the order of arrival;
-- it is never used again, so that a late settlement cannot hit another message.
CREATE TABLE messages (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    queue          INTEGER NOT NULL,
    rank           INTEGER NOT NULL,    -- minus the priority: lowest first
    owner          INTEGER,             -- processes.id
    deliveries     INTEGER NOT NULL DEFAULT 0,
    root           TEXT,                -- the task on its own or the workflow that it belongs to
    message_id     TEXT,
    priority       INTEGER,
    correlation_id TEXT,
    reply_to       TEXT,
    headers        TEXT,                -- JSON object
    body           BLOB NOT NULL
);
CREATE INDEX messages_ready ON messages (queue, rank, id) WHERE owner IS NULL;
CREATE INDEX messages_of_root ON messages (root, queue, rank, id) WHERE owner IS NULL;

-- Messages that are not due yet. They arrive in `messages` when they are.
CREATE TABLE delayed (
    id             INTEGER PRIMARY KEY,
    due            INTEGER NOT NULL,
    queue          INTEGER NOT NULL,
    rank           INTEGER NOT NULL,
    root           TEXT,
    message_id     TEXT,
    priority       INTEGER,
    correlation_id TEXT,
    reply_to       TEXT,
    headers        TEXT,
    body           BLOB NOT NULL
);
CREATE INDEX delayed_due ON delayed (due);

CREATE TABLE consumers (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    owner INTEGER NOT NULL,             -- processes.id
    queue INTEGER NOT NULL
);

CREATE TABLE broadcasts (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    at   INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX broadcasts_at ON broadcasts (at);

-- ---------------------------------------------------------------- store

CREATE TABLE sessions (
    id      TEXT    PRIMARY KEY,
    process INTEGER NOT NULL,           -- processes.id
    expires INTEGER NOT NULL
) WITHOUT ROWID;

-- Ids that were cancelled before anybody saw them.
CREATE TABLE marks (
    root   TEXT    PRIMARY KEY,
    forget INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX marks_forget ON marks (forget);

CREATE TABLE workflows (
    id           TEXT    PRIMARY KEY,
    name         TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    open         INTEGER NOT NULL DEFAULT 0,    -- tasks of the file that have not ended
    broken       INTEGER NOT NULL DEFAULT 0,    -- of these, which ended so that the workflow fails
    ends         INTEGER NOT NULL DEFAULT 0,    -- how many ends of tasks there were, children and retries too
    max_parallel INTEGER,                       -- null: any number
    active       INTEGER NOT NULL DEFAULT 0,    -- tasks between release and end; only with max_parallel
    run          INTEGER NOT NULL DEFAULT 1,
    retried_by   TEXT,                          -- the requests that began the last runs, newest last
    floor        INTEGER NOT NULL DEFAULT 0,    -- as high as the fences of tasks that are no more; 0: none
    timeout      INTEGER,                       -- in nanoseconds
    reply        TEXT,
    digest       TEXT,
    result_ttl   INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL,
    ended_at     INTEGER,
    error        TEXT,                          -- why it was refused or ran out of time, JSON
    clean_at     INTEGER,                       -- when its results go; then, when every trace of it goes,
    forget_at    INTEGER                        -- which is this
);
CREATE INDEX workflows_created ON workflows (created_at);
CREATE INDEX workflows_clean ON workflows (clean_at) WHERE clean_at IS NOT NULL;

-- Tasks on their own (task is '') and tasks of workflows, by n in the order of the file, children after it.
CREATE TABLE tasks (
    n           INTEGER PRIMARY KEY,
    root        TEXT    NOT NULL,
    task        TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    protocol    TEXT    NOT NULL,
    method      TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    pending     INTEGER NOT NULL DEFAULT 0, -- dependencies that have not ended
    verdict     INTEGER NOT NULL DEFAULT 0, -- what those that have ended make of it: 0 run, 1 skip, 2 fail
    cause       INTEGER,                    -- tasks.n of the dependency that the verdict is due to
    tolerated   INTEGER NOT NULL DEFAULT 0,
    parent      INTEGER,                    -- tasks.n of the task that has planned it
    released_by INTEGER,                    -- tasks.n, or 0 for the root itself; null once it is claimed
    turn        INTEGER,                    -- the turn that it was released in, if it had to wait for one
    attempts    INTEGER NOT NULL DEFAULT 0, -- started so far
    resumes     INTEGER NOT NULL DEFAULT 0, -- 1: the last of these goes on after its children
    crashes     INTEGER NOT NULL DEFAULT 0,
    fence       INTEGER NOT NULL DEFAULT 0, -- of the last lease
    session     TEXT,                       -- whose the last lease is
    due         INTEGER,
    started_at  INTEGER,
    ended_at    INTEGER,
    ended_seq   INTEGER,                    -- its place in the order in which its workflow's tasks ended
    created_at  INTEGER NOT NULL,
    run         INTEGER NOT NULL DEFAULT 1, -- as above, of a task on its own
    retried_by  TEXT,
    digest      TEXT,
    clean_at    INTEGER,                    -- as above; null within a workflow
    forget_at   INTEGER,
    UNIQUE (root, task)
);
CREATE INDEX tasks_created ON tasks (created_at) WHERE task = '';
CREATE INDEX tasks_clean ON tasks (clean_at) WHERE clean_at IS NOT NULL;
CREATE INDEX tasks_released ON tasks (released_by) WHERE released_by > 0;
CREATE INDEX tasks_parent ON tasks (parent) WHERE parent IS NOT NULL;

-- The message of a workflow's task, and that of a task on its own that may be retried.
CREATE TABLE planned (
    task     INTEGER PRIMARY KEY,           -- tasks.n
    address  TEXT    NOT NULL,
    priority INTEGER NOT NULL,
    body     BLOB    NOT NULL
);

CREATE TABLE edges (
    dependency INTEGER NOT NULL,            -- tasks.n
    dependent  INTEGER NOT NULL,            -- tasks.n
    otherwise  INTEGER NOT NULL,            -- the worst verdict that it can give, as above
    PRIMARY KEY (dependency, dependent)
) WITHOUT ROWID;
CREATE INDEX edges_dependent ON edges (dependent, dependency);

-- Tasks that have planned others.
CREATE TABLE parents (
    task         INTEGER PRIMARY KEY,       -- tasks.n
    open         INTEGER NOT NULL,          -- children that have not ended
    max_parallel INTEGER,                   -- as in workflows, among the children
    active       INTEGER NOT NULL DEFAULT 0
);

-- Ready tasks that wait for their turn; the lowest rank, then the lowest id is next. Where a parent bounds its
-- children (it is their `gate`) only the first of them is in front, and only while the gate has room. With
-- front 2: children that a retry has reset together with children of theirs, and that wait for a place.
CREATE TABLE turns (
    id    INTEGER PRIMARY KEY,
    task  INTEGER NOT NULL,                 -- tasks.n
    root  TEXT    NOT NULL,
    rank  INTEGER NOT NULL,                 -- minus the priority
    gate  INTEGER,                          -- parents.task
    front INTEGER NOT NULL
);
CREATE INDEX turns_root ON turns (root, front, rank, id);
CREATE INDEX turns_gate ON turns (gate, front, rank, id) WHERE gate IS NOT NULL;

CREATE TABLE results (
    task     INTEGER PRIMARY KEY,           -- tasks.n
    kept     INTEGER NOT NULL,              -- 0: only for the workflow's document, without its result
    document BLOB    NOT NULL
);

CREATE TABLE history (
    task  INTEGER NOT NULL,                 -- tasks.n
    fence INTEGER NOT NULL,
    entry TEXT    NOT NULL,
    PRIMARY KEY (task, fence)
) WITHOUT ROWID;
