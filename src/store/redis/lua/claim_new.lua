-- The common case of a claim, before the functions are made that it does not need: a task on its own that
-- nobody has seen. Everything else falls through to claim.lua, which has the list of KEYS and ARGV.
if KEYS[1] == KEYS[2] and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'kind', 'task', 'state', 'running', 'attempts', ARGV[1], 'fence', 1,
    'session', ARGV[2], 'started', ARGV[4], 'head', ARGV[5], 'created', ARGV[4])
  if ARGV[9] ~= '' then redis.call('HSET', KEYS[1], 'digest', ARGV[9]) end
  local run = tonumber(ARGV[11]) or 1
  if run > 1 then redis.call('HSET', KEYS[1], 'run', run) end
  redis.call('PUBLISH', ARGV[12], ARGV[13])
  return { 'run', 1, ARGV[1], 0, '', {}, {}, '', run }
end
