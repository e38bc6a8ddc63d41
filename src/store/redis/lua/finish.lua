-- Ends an attempt, and with it, in the same step, whatever follows from that.
-- KEYS: 1 task, 2 root (the same for a task on its own), 3 its result
-- ARGV: 1 fence, 2 'ended' | 'again' | 'abandoned' | 'expanded', 3 state after it, 4 now
--       ended, again: 5 entry for the history
--       again:        6 due
--       ended:        7 document, 8 '1' if the document is kept, 9 result TTL in ms, 10 tombstone TTL in ms,
--                     11 channel, 12 how many bytes of the document come before its result's value,
--                     13 address, 14 priority, 15 body of a message to keep for a retry, or none of the three
--       expanded:     5 max_parallel or '', 6 number of children, then the children as `plant` wants them
--       all but ended, as the last two: channel of what moves, what it is told
-- Answers {'done', state of the workflow or '', {name, state...}, {released...}} | {'lost'} | {'refused', why}

local task, root, result = KEYS[1], KEYS[2], KEYS[3]
local how, state, now, document = ARGV[2], ARGV[3], ARGV[4], ARGV[7]
local alone = task == root

local is = call('HMGET', task, 'state', 'fence', 'attempts', 'history', 'entries', 'released', 'dependents',
  'parent', 'gate', 'tolerated', 'given')
if is[2] ~= ARGV[1] then return { 'lost' } end

-- The lease has done its step already, and its answer was lost: the answer again.
if is[1] ~= 'running' then
  if alone then return { 'done', '', {}, {} } end
  return { 'done', call('HGET', root, 'state'), {}, released_by(base_of(root), is[6], is[2]) }
end

if how ~= 'expanded' then end_given(task, root, is[11], is[2], is[3], state) end

local function tell_moved() call('PUBLISH', ARGV[#ARGV - 1], ARGV[#ARGV]) end

if how == 'abandoned' then
  call('HSET', task, 'state', 'queued', 'attempts', tonumber(is[3]) - 1)
  tell_moved()
  return { 'done', alone and '' or 'running', {}, {} }
end
if how == 'again' then
  local history, entries = remember(is[4], is[5], ARGV[5])
  call('HSET', task, 'state', state, 'due', ARGV[6], 'history', history, 'entries', entries)
  tell_moved()
  return { 'done', alone and '' or 'running', {}, {} }
end

-- What a repeat of this step answers.
local function remember_released(step)
  if #step.names > 0 then
    call('HSET', task, 'released', is[2] .. ' ' .. table.concat(step.names, ' '))
  end
end

if how == 'expanded' then
  if alone then return { 'refused', 'a task on its own cannot plan others' } end
  local base, seen, count = base_of(root), {}, tonumber(ARGV[6])
  if call('HEXISTS', task, 'children') == 1 then return { 'refused', 'the task has planned others already' } end
  for at = 7, 6 + count * 9, 9 do
    if seen[ARGV[at]] or call('EXISTS', base .. 'task:' .. ARGV[at]) == 1 then
      return { 'refused', "the workflow has a task '" .. ARGV[at] .. "' already" }
    end
    seen[ARGV[at]] = true
  end
  local name, gate = string.sub(task, #base + 6), nil
  if ARGV[5] ~= '' then
    gate = name
    call('HSET', task, 'bound', ARGV[5], 'active', 0)
  end
  local step = begin(root, now)
  give_up_turn(step)
  local floor = call('HGET', root, 'floor') or nil
  local children = plant(step, 7, count, name, gate, floor)
  call('HSET', task, 'state', 'waiting', 'children', table.concat(children, ' '), 'open', count, 'resume', 1)
  call('RPUSH', base .. 'parents', name)
  if step.moved then save(step) end
  remember_released(step)
  tell_moved()
  return { 'done', 'running', {}, step.released }
end

local history, entries = remember(is[4], is[5], ARGV[5])
call('HSET', task, 'state', state, 'ended', now, 'history', history, 'entries', entries)
if alone then
  call('HDEL', task, 'sent')
  if ARGV[13] then
    call('HSET', task, 'address', ARGV[13], 'priority', ARGV[14], 'body', ARGV[15])
  else
    call('HDEL', task, 'address', 'priority', 'body')
  end
  call('PEXPIRE', task, ARGV[10])
  if ARGV[8] == '1' then call('SET', result, document, 'PX', ARGV[9]) end
  call('PUBLISH', ARGV[11], result)
  return { 'done', '', {}, {} }
end

local step = begin(root, now, ARGV[11])
local cut = tonumber(ARGV[12])
local bytes, slim_bytes = #document, #document
if cut > 0 then slim_bytes = cut + #OMITTED end
if ARGV[8] == '1' then
  call('SET', result, document)
  if cut > 0 then call('HSET', task, 'cut', cut) end
else
  -- Nobody reads the result, but the workflow's document tells how the task ended.
  if cut > 0 then document = string.sub(document, 1, cut) .. OMITTED end
  call('HSET', task, 'slim', document)
  bytes = slim_bytes
end
call('PUBLISH', step.channel, result)

give_up_turn(step)
give_up_place(step, is[9])
settle(step, string.sub(task, #step.base + 6), state, is[7])
count_end(step, is[8], is[10], state, bytes, slim_bytes)
local flow_state = conclude(step)
remember_released(step)
return { 'done', flow_state, step.ended, step.released }
