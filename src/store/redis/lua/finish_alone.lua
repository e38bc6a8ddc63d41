-- The common case of a finish, before the functions are made that it does not need: the only attempt of a
-- task on its own ends it, and has given nothing before. Everything else falls through to finish.lua, which has the list of KEYS and ARGV.
if KEYS[1] == KEYS[2] and ARGV[2] == 'ended' then
  local is = redis.call('HMGET', KEYS[1], 'state', 'fence', 'history', 'given')
  if is[1] == 'running' and is[2] == ARGV[1] and not is[3] and not is[4] then
    redis.call('HSET', KEYS[1], 'state', ARGV[3], 'ended', ARGV[4], 'history', ARGV[5], 'entries', 1)
    redis.call('HDEL', KEYS[1], 'sent')
    if ARGV[13] then
      redis.call('HSET', KEYS[1], 'address', ARGV[13], 'priority', ARGV[14], 'body', ARGV[15])
    end
    redis.call('PEXPIRE', KEYS[1], ARGV[10])
    if ARGV[8] == '1' then redis.call('SET', KEYS[3], ARGV[7], 'PX', ARGV[9]) end
    redis.call('PUBLISH', ARGV[11], KEYS[3])
    return { 'done', '', {}, {} }
  end
end
