-- Ends an attempt, and with it, in the same step, whatever follows from that.
-- KEYS: 1 task, 2 root (the same for a task on its own), 3 its result
-- ARGV: 1 fence, 2 'ended' | 'again' | 'abandoned', 3 state after it, 4 now, 5 entry for the history,
--       6 due, 7 document, 8 '1' if the document is kept, 9 result TTL in ms, 10 tombstone TTL in ms,
--       11 channel, 12 how many bytes of the document come before its result's value, 13 the task's id
-- Answers {'done', state of the workflow or '', {failed...}, {released...}} | {'lost'}

local task, root, result = KEYS[1], KEYS[2], KEYS[3]
local how, state, now, document = ARGV[2], ARGV[3], ARGV[4], ARGV[7]
local alone = task == root

local is = call('HMGET', task, 'state', 'fence', 'attempts', 'history', 'entries', 'dependents')
if is[2] ~= ARGV[1] then return { 'lost' } end

-- The lease has done its step already, and its answer was lost: the answer again.
if is[1] ~= 'running' then
  if alone then return { 'done', '', {}, {} } end
  local released = {}
  if is[1] == 'completed' then released = unclaimed_dependents(base_of(root), is[6]) end
  return { 'done', call('HGET', root, 'state'), {}, released }
end

if how ~= 'ended' then
  if how == 'abandoned' then
    call('HSET', task, 'state', 'queued', 'attempts', tonumber(is[3]) - 1)
  else
    local history, entries = remember(is[4], is[5], ARGV[5])
    call('HSET', task, 'state', state, 'due', ARGV[6], 'history', history, 'entries', entries)
  end
  return { 'done', alone and '' or 'running', {}, {} }
end

local history, entries = remember(is[4], is[5], ARGV[5])
if alone then
  call('HSET', task, 'state', state, 'ended', now, 'history', history, 'entries', entries)
  call('PEXPIRE', task, ARGV[10])
  if ARGV[8] == '1' then call('SET', result, document, 'PX', ARGV[9]) end
  call('PUBLISH', ARGV[11], result)
  return { 'done', '', {}, {} }
end

call('HSET', task, 'state', state, 'ended', now, 'history', history, 'entries', entries, 'body', '')
local step = { root = root, base = base_of(root), now = now, channel = ARGV[11], written = {} }
local flow = call('HMGET', root, 'left', 'failed', 'bytes', 'slim_bytes')
local left, failed = tonumber(flow[1]) - 1, tonumber(flow[2])
local bytes, slim_bytes = tonumber(flow[3]), tonumber(flow[4])

local cut = tonumber(ARGV[12])
local slim = #document
if cut > 0 then slim = cut + #OMITTED end
if ARGV[8] == '1' then
  call('SET', result, document)
  if cut > 0 then call('HSET', task, 'cut', cut) end
  bytes = bytes + #document
else
  -- Nobody reads the result, but the workflow's document tells how the task ended.
  if cut > 0 then document = string.sub(document, 1, cut) .. OMITTED end
  call('HSET', task, 'slim', document)
  bytes = bytes + slim
end
slim_bytes = slim_bytes + slim
call('PUBLISH', step.channel, result)

local released, names_failed = {}, {}
if state == 'completed' then
  for name in string.gmatch(is[6], '%S+') do
    local key = step.base .. 'task:' .. name
    if call('HINCRBY', key, 'pending', -1) == 0 then
      local dependent = call('HMGET', key, 'state', 'address', 'priority', 'body')
      if dependent[1] == 'waiting' then
        call('HSET', key, 'state', 'queued')
        add_released(released, name, dependent[2], dependent[3], dependent[4])
      end
    end
  end
else
  failed = failed + 1
  local causes, at = { { ARGV[13], is[6] } }, 1
  while causes[at] do
    local ending = fill(fill(DEPENDENCY_FAILED, NOW_MARK, now), DEPENDENCY_MARK, causes[at][1])
    for name in string.gmatch(causes[at][2], '%S+') do
      local dependent = call('HMGET', step.base .. 'task:' .. name, 'state', 'head', 'dependents')
      if dependent[1] == 'waiting' then
        local length = end_unrun(step, name, dependent[2], 'failed', ending)
        bytes, slim_bytes = bytes + length, slim_bytes + length
        left, failed = left - 1, failed + 1
        names_failed[#names_failed + 1] = name
        causes[#causes + 1] = { name, dependent[3] }
      end
    end
    at = at + 1
  end
end

call('HSET', root, 'left', left, 'failed', failed, 'bytes', bytes, 'slim_bytes', slim_bytes)
local flow_state = 'running'
if left == 0 then
  flow_state = 'completed'
  if failed > 0 then flow_state = 'failed' end
  end_workflow(step, flow_state, WORKFLOW_ENDED[flow_state])
end
return { 'done', flow_state, names_failed, released }
