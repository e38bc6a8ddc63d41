-- The embedded state, version 7: what a worker says of itself, for as long as its session lives.

ALTER TABLE sessions ADD COLUMN about TEXT;     -- NULL: it has not said anything
