-- Notes that what a lost run has released is published.
-- KEYS: 1 root
-- ARGV: 1 the run

if redis.call('HGET', KEYS[1], 'reopened') == ARGV[1] then redis.call('HDEL', KEYS[1], 'reopened') end
return 1
