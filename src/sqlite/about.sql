-- The embedded state, version 6: what a worker says of itself, for as long as its session lives.

ALTER TABLE sessions ADD COLUMN about TEXT;     -- NULL: it has not said anything
