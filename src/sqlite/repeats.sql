-- The embedded state, version 3: what repeats of cancels and of timeouts are known by.

ALTER TABLE marks ADD COLUMN cancels TEXT;          -- the requests that were answered last, newest last: NAME@RUN
ALTER TABLE tasks ADD COLUMN cancels TEXT;          -- as above, of a task on its own
ALTER TABLE workflows ADD COLUMN cancels TEXT;      -- as above
ALTER TABLE workflows ADD COLUMN timed_out INTEGER; -- the run whose time was over
