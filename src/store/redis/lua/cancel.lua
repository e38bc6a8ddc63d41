-- Ends a task on its own, or every open task of a workflow, from outside.
-- KEYS: 1 root, 2 its result
-- ARGV: 1 now, 2 result TTL in ms, 3 tombstone TTL in ms, 4 channel
-- Answers {'done', {name, session...}} (for a task on its own the name is '') | {'over', state} | {'marked'}

local root, result, now = KEYS[1], KEYS[2], ARGV[1]
local step = { root = root, base = base_of(root), now = now, channel = ARGV[4] }

local is = call('HMGET', root, 'kind', 'state', 'session', 'head')
if not is[1] or is[1] == 'mark' then
  call('HSET', root, 'kind', 'mark', 'created', now)
  call('PEXPIRE', root, ARGV[3])
  return { 'marked' }
end
if ENDED[is[2]] then return { 'over', is[2] } end

if is[1] == 'workflow' then
  -- Nobody has taken it in yet: it ends without tasks, and `create` will find it ended.
  if is[2] == 'accepted' then
    call('HSET', root, 'ttl', ARGV[2], 'tombstone', ARGV[3], 'bytes', 0, 'slim_bytes', 0)
  end
  return { 'done', cancel_workflow(step) }
end

call('HSET', root, 'state', 'cancelled', 'ended', now)
call('HINCRBY', root, 'fence', 1)
call('PEXPIRE', root, ARGV[3])
call('SET', result, is[4] .. fill(CANCELLED, NOW_MARK, now), 'PX', ARGV[2])
call('PUBLISH', step.channel, result)
if is[2] == 'running' then return { 'done', { '', is[3] } } end
return { 'done', {} }
