-- How a workflow and its unrun tasks end. `step` has root, base, now, channel, and `written`: documents by
-- task that this step has written, so that it need not read them.

-- Ends a task of a workflow that has no attempt to report: its document is its head and this ending.
-- `fence` is a new one that makes a lease void. Answers the document's length.
local function end_unrun(step, name, head, state, ending, fence)
  local task, result = step.base .. 'task:' .. name, step.base .. 'result:' .. name
  local document = head .. ending
  if fence then
    call('HSET', task, 'state', state, 'ended', step.now, 'fence', fence)
  else
    call('HSET', task, 'state', state, 'ended', step.now)
  end
  call('SET', result, document)
  step.written[name] = document
  call('PUBLISH', step.channel, result)
  return #document
end

-- A task's document as it stands in the workflow's: whole, without its result, or the head and the state,
-- as far as the bound allows.
local function document_within(step, name, measure)
  local task, result = step.base .. 'task:' .. name, step.base .. 'result:' .. name
  if measure == 'whole' then
    local document = step.written[name] or call('GET', result)
    if document then return document end
  end
  local is = call('HMGET', task, 'head', 'state', 'cut', 'slim')
  if measure ~= 'least' then
    if is[4] then return is[4] end
    if is[3] then
      local start = call('GETRANGE', result, 0, tonumber(is[3]) - 1)
      if #start == tonumber(is[3]) then return start .. OMITTED end
    else
      local document = call('GET', result)
      if document then return document end
    end
  end
  return is[1] .. ',"status":"' .. is[2] .. '","result":' .. OMITTED
end

-- Ends a workflow none of whose tasks is open: its document, and from now on everything of it has a TTL.
-- `status` is what the document says of it, `error` the reason to put into it, if it has a place for one.
-- Messages are kept as long as there is something to retry.
local function end_workflow(step, final, status, error)
  local is = call('HMGET', step.root, 'head', 'created', 'ttl', 'tombstone', 'bytes', 'slim_bytes', 'excused')
  local ttl, tombstone = is[3], is[4]
  local order = call('LRANGE', step.base .. 'order', 0, -1)
  local measure = 'least'
  if tonumber(is[6]) <= DOCUMENT_BYTES_MAX then measure = 'slim' end
  if tonumber(is[5]) <= DOCUMENT_BYTES_MAX then measure = 'whole' end
  local documents = {}
  for at, name in ipairs(order) do documents[at] = document_within(step, name, measure) end
  status = fill(fill(status, CREATED_MARK, is[2]), NOW_MARK, step.now)
  -- Last: nobody's words are looked at for marks.
  if error then status = fill(status, ERROR_MARK, error) end
  local document = is[1] .. status .. '"tasks":[' .. table.concat(documents, ',') .. ']}'

  local done = final == 'completed' and (is[7] or '0') == '0'
  for _, name in ipairs(all_tasks(step.base)) do
    if done then call('HDEL', step.base .. 'task:' .. name, 'body') end
    call('PEXPIRE', step.base .. 'result:' .. name, ttl)
    call('PEXPIRE', step.base .. 'task:' .. name, tombstone)
  end
  call('PEXPIRE', step.base .. 'order', tombstone)
  call('PEXPIRE', step.base .. 'parents', tombstone)
  call('HSET', step.root, 'state', final, 'ended', step.now, 'left', 0)
  call('PEXPIRE', step.root, tombstone)
  call('SET', step.base .. 'result', document, 'PX', ttl)
  call('PUBLISH', step.channel, step.base .. 'result')
end

-- Ends every open task of a workflow, each with this ending, and the workflow itself. Answers names and
-- sessions of what ran.
local function cancel_workflow(step, ending, final, status)
  local running, added = {}, 0
  ending = fill(ending, NOW_MARK, step.now)
  for _, name in ipairs(all_tasks(step.base)) do
    local task = step.base .. 'task:' .. name
    local is = call('HMGET', task, 'state', 'session', 'head', 'fence', 'parent')
    if not ENDED[is[1]] then
      if is[1] == 'running' then
        running[#running + 1] = name
        running[#running + 1] = is[2]
      end
      local fence = (tonumber(is[4]) or 0) + 1
      local length = end_unrun(step, name, is[3], 'cancelled', ending, fence)
      if not is[5] then added = added + length end
    end
  end
  call('DEL', step.base .. 'ready', step.base .. 'turns')
  for _, parent in ipairs(call('LRANGE', step.base .. 'parents', 0, -1)) do
    call('DEL', step.base .. 'ready:' .. parent, step.base .. 'kept:' .. parent)
  end
  call('HINCRBY', step.root, 'bytes', added)
  call('HINCRBY', step.root, 'slim_bytes', added)
  end_workflow(step, final, status)
  return running
end
