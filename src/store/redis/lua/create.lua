-- Takes a workflow in.
-- KEYS: 1 root
-- ARGV: 1 now, 2 the start of its document, 3 result TTL in ms, 4 tombstone TTL in ms, 5 channel,
--       6 why it is refused (JSON) or '', 7 number of tasks, then for each task in the order of the file: id, head, address, priority, body,
--       number of dependencies, dependencies, dependents (ids with spaces between)
-- Answers {'running', {released...}} | {'over', state} | {'clash'}

local root, now = KEYS[1], ARGV[1]
local base, total = base_of(root), tonumber(ARGV[7])
local step = { root = root, base = base, now = now, channel = ARGV[5], written = {} }

local is = call('HMGET', root, 'kind', 'state')
if is[1] == 'task' then return { 'clash' } end
if is[1] == 'workflow' and is[2] ~= 'accepted' then
  if is[2] ~= 'running' then return { 'over', is[2] } end
  local released = {}
  for _, name in ipairs(call('LRANGE', base .. 'order', 0, -1)) do add_if_unclaimed(released, base, name) end
  return { 'running', released }
end

call('HSET', root, 'kind', 'workflow', 'state', 'running', 'head', ARGV[2], 'ttl', ARGV[3],
  'tombstone', ARGV[4], 'total', total, 'left', total, 'failed', 0, 'bytes', 0, 'slim_bytes', 0)
call('HSETNX', root, 'created', now)
call('PERSIST', root)
local released = {}
for at = 8, 7 + total * 8, 8 do
  local name, pending = ARGV[at], ARGV[at + 5]
  local state = 'waiting'
  if pending == '0' then
    state = 'queued'
    add_released(released, name, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
  end
  call('HSET', base .. 'task:' .. name, 'state', state, 'head', ARGV[at + 1], 'address', ARGV[at + 2],
    'priority', ARGV[at + 3], 'body', ARGV[at + 4], 'pending', pending, 'dependencies', ARGV[at + 6],
    'dependents', ARGV[at + 7])
  call('RPUSH', base .. 'order', name)
end

-- Somebody cancelled it before anybody had seen it.
if is[1] == 'mark' then
  cancel_workflow(step)
  return { 'over', 'cancelled' }
end
if ARGV[6] ~= '' then
  end_workflow(step, 'failed', fill(WORKFLOW_REFUSED, ERROR_MARK, ARGV[6]))
  return { 'over', 'failed' }
end
if total == 0 then
  end_workflow(step, 'completed', WORKFLOW_ENDED.completed)
  return { 'over', 'completed' }
end
return { 'running', released }
