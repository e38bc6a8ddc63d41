-- Resets what did not complete, and whatever depends on that, so that it runs again.
-- KEYS: 1 root, 2 its result
-- ARGV: 1 who asks, 2 now, 3 channel, 4 channel of what moves, 5 the root's id
-- Answers {'running', run, timeout or '', {released...}} (for a task on its own the name is '')
--       | {'open'} | {'nothing'} | {'untaken'} | {'gone', {name...}} | {'unknown'}

local root, base = KEYS[1], base_of(KEYS[1])
local is = call('HMGET', root, 'kind', 'state', 'by', 'run', 'timeout', 'fence', 'free', 'address', 'priority',
  'body')
local run, timeout = tonumber(is[4]) or 1, is[5] or ''
if not is[1] or is[1] == 'mark' then return { 'unknown' } end
-- The requests that began the last runs, newest last.
local requests, is_repeat = words(is[3] or ''), false
for _, request in ipairs(requests) do is_repeat = is_repeat or request == ARGV[1] end
if is_repeat then
  local released = {}
  if is[1] == 'workflow' and is[2] == 'running' then
    released = unclaimed(base, all_tasks(base))
  elseif is[2] == 'queued' and is[6] == is[7] then
    add_released(released, '', is[8], is[9], is[10])
  end
  return { 'running', run, timeout, released }
end
if not ENDED[is[2]] then return { 'open' } end
run = run + 1
requests[#requests + 1] = ARGV[1]
if #requests > REQUESTS_MAX then table.remove(requests, 1) end
local by = table.concat(requests, ' ')

if is[1] == 'task' then
  if is[2] == 'completed' or is[2] == 'skipped' then return { 'nothing' } end
  if not is[10] then return { 'gone', {} } end
  local fence = (tonumber(is[6]) or 0) + 1
  call('HDEL', root, 'ended', 'started', 'due', 'session')
  call('HSET', root, 'state', 'queued', 'attempts', 0, 'crashes', 0, 'fence', fence, 'free', fence,
    'by', by, 'run', run)
  call('PERSIST', root)
  call('DEL', KEYS[2])
  call('PUBLISH', ARGV[4], 'queued ' .. ARGV[5])
  return { 'running', run, '', { '', is[8], is[9], is[10] } }
end

-- What is to be reset, by name: 'itself', or 'dependency' if something that it depends on is. All of a level
-- (the file, or the children of one parent) is looked at whose parent is reset by itself.
local tasks, reset, resets, gone, lost, complete = {}, {}, {}, {}, {}, true

local function forget_children(parent)
  lost[parent] = true
  for _, name in ipairs(words(call('HGET', base .. 'task:' .. parent, 'children'))) do
    lost[#lost + 1] = name
    forget_children(name)
  end
end

local function look_at(names)
  local causes, at, open = {}, 1, 0
  for _, name in ipairs(names) do
    local as = call('HMGET', base .. 'task:' .. name, 'state', 'dependencies', 'dependents', 'fence', 'children',
      'slim', 'cut', 'body')
    tasks[name] = as
    if as[1] ~= 'completed' and as[1] ~= 'skipped' then
      reset[name] = 'itself'
      causes[#causes + 1] = name
    end
  end
  while causes[at] do
    for dependent in string.gmatch(tasks[causes[at]][3], '[!~+](%S+)') do
      if not reset[dependent] then causes[#causes + 1] = dependent end
      reset[dependent] = 'dependency'
    end
    at = at + 1
  end
  for _, name in ipairs(names) do
    local as = tasks[name]
    if reset[name] then
      open = open + 1
      resets[#resets + 1] = name
      complete = complete and as[8] and true
      if as[5] and reset[name] == 'dependency' then forget_children(name) end
      if as[5] and reset[name] == 'itself' then as.open = look_at(words(as[5])) end
    elseif as[1] == 'completed' and not as[6] and call('EXISTS', base .. 'result:' .. name) == 0 then
      gone[#gone + 1] = name
    end
  end
  return open
end

local order = call('LRANGE', base .. 'order', 0, -1)
local left = look_at(order)
if #order == 0 and is[2] ~= 'completed' then return { 'untaken' } end
if left == 0 then return { 'nothing' } end
if #gone > 0 or not complete then return { 'gone', gone } end

-- From here on it is written.
local parents, floor = call('LRANGE', base .. 'parents', 0, -1), 0
for _, name in ipairs(lost) do
  floor = math.max(floor, tonumber(call('HGET', base .. 'task:' .. name, 'fence')) or 0)
  call('DEL', base .. 'task:' .. name, base .. 'result:' .. name)
end
if #lost > 0 then
  floor = math.max(floor + 1, tonumber(call('HGET', root, 'floor')) or 0)
  call('HSET', root, 'floor', floor)
end
call('DEL', base .. 'parents')
for _, name in ipairs(parents) do
  if not lost[name] then call('RPUSH', base .. 'parents', name) end
end

call('DEL', KEYS[2])
call('HDEL', root, 'ended', 'active', 'turn')
call('HSET', root, 'state', 'running', 'run', run, 'by', by)
call('PERSIST', root)
call('PERSIST', base .. 'order')
for _, name in ipairs(all_tasks(base)) do
  call('PERSIST', base .. 'task:' .. name)
  call('PERSIST', base .. 'result:' .. name)
end

local step = begin(root, ARGV[2], ARGV[3])
step.left, step.failed, step.excused, step.bytes, step.slim_bytes = left, 0, 0, 0, 0
for _, name in ipairs(order) do
  local as = tasks[name]
  if not reset[name] then
    local length = as[6] and #as[6] or call('STRLEN', base .. 'result:' .. name)
    step.bytes = step.bytes + length
    if as[7] then length = tonumber(as[7]) + #OMITTED end
    step.slim_bytes = step.slim_bytes + length
  end
end

for _, name in ipairs(resets) do
  local task, as = base .. 'task:' .. name, tasks[name]
  local pending, verdict, cause = 0, nil, nil
  for sign, dependency in string.gmatch(as[2], '([!~+])(%S+)') do
    if reset[dependency] then
      pending = pending + 1
    elseif not verdict then
      -- What is not reset has completed or was skipped, so no edge can fail.
      verdict = effect(tasks[dependency][1], sign)
      cause = verdict and dependency
    end
  end
  local fence = (tonumber(as[4]) or 0) + 1
  call('DEL', base .. 'result:' .. name)
  call('HDEL', task, 'ended', 'started', 'due', 'session', 'verdict', 'cause', 'cut', 'slim', 'released',
    'resume', 'free')
  call('HSET', task, 'state', 'waiting', 'pending', pending, 'attempts', 0, 'crashes', 0, 'fence', fence)
  if verdict then call('HSET', task, 'verdict', verdict, 'cause', cause) end
  if lost[name] then
    call('HDEL', task, 'children', 'open', 'bound', 'active')
  elseif as.open then
    call('HSET', task, 'open', as.open, 'active', 0)
  end
end
begin_again(step, order)
save(step)
call('PUBLISH', ARGV[4], 'running ' .. ARGV[5])
return { 'running', run, timeout, step.released }
