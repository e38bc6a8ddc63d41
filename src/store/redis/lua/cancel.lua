-- Ends a task on its own, or every open task of a workflow, from outside.
-- KEYS: 1 root, 2 its result
-- ARGV: 1 now, 2 result TTL in ms, 3 tombstone TTL in ms, 4 channel, 5 the run whose time is over, or '' if
--       somebody asked for the end, 6 tombstone TTL in ms of what may still be kept back by the broker,
--       7 who asks, or '' if that has no name
-- Answers {'done', {name, session...}, = and the reply or ''} (for a task on its own the name is '')
--       | {'again', = and the reply or ''} | {'earlier'} | {'over', state} | {'marked'}

local root, result, now, run = KEYS[1], KEYS[2], ARGV[1], ARGV[5]
local step = { root = root, base = base_of(root), now = now, channel = ARGV[4], written = {} }

local is = call('HMGET', root, 'kind', 'state', 'session', 'head', 'run', 'reply', 'timed_out')
if run ~= '' then
  -- Only a run of a workflow has a time; what is not that run is none of this request's business.
  if not is[1] then return { 'over', 'unknown' } end
  local is_of_run = is[1] == 'workflow' and (is[5] or '1') == run
  if is_of_run and is[2] == 'failed' and is[7] == run then return { 'again', is[6] or '' } end
  if not is_of_run or is[2] ~= 'running' then return { 'over', is[2] or 'cancelled' } end
  call('HSET', root, 'timed_out', run)
  return { 'done', cancel_workflow(step, TIMED_OUT, 'failed', WORKFLOW_TIMED_OUT), is[6] or '' }
end

-- The requests that were answered last, newest last, and the run that each found: NAME@RUN, or !NAME@RUN if that
-- had ended otherwise before.
local by, has_ended, present = ARGV[7], is[1] ~= 'mark' and ENDED[is[2]], is[5] or '1'
if by ~= '' then
  local requests = words(call('HGET', root, 'cancels') or '')
  local known, of
  for _, request in ipairs(requests) do
    local sign, name, found = string.match(request, '^(!?)([^@]+)@(%d+)$')
    if name == by then known, of = sign, found end
  end
  if known == '' and is[1] ~= 'mark' then
    if of ~= present then return { 'earlier' } end
    return { 'again', is[6] or '' }
  end
  if known and is[1] ~= 'mark' then return { 'over', is[2] } end
  if not known then
    local otherwise = has_ended and is[2] ~= 'cancelled'
    requests[#requests + 1] = (otherwise and '!' or '') .. by .. '@' .. present
    if #requests > REQUESTS_MAX then table.remove(requests, 1) end
    call('HSET', root, 'cancels', table.concat(requests, ' '))
  end
end

if not is[1] or is[1] == 'mark' then
  call('HSET', root, 'kind', 'mark', 'created', now)
  call('PEXPIRE', root, ARGV[6])
  return { 'marked' }
end
if is[2] == 'cancelled' then return { 'again', is[6] or '' } end
if has_ended then return { 'over', is[2] } end

if is[1] == 'workflow' then
  -- Nobody has taken it in yet: it ends without tasks, and `create` will find it ended.
  if is[2] == 'accepted' then
    call('HSET', root, 'ttl', ARGV[2], 'tombstone', ARGV[6], 'bytes', 0, 'slim_bytes', 0)
  end
  return { 'done', cancel_workflow(step, CANCELLED, 'cancelled', WORKFLOW_ENDED.cancelled), is[6] or '' }
end

call('HSET', root, 'state', 'cancelled', 'ended', now)
call('HDEL', root, 'sent')
call('HINCRBY', root, 'fence', 1)
call('PEXPIRE', root, is[2] == 'delayed' and ARGV[6] or ARGV[3])
call('SET', result, is[4] .. fill(CANCELLED, NOW_MARK, now), 'PX', ARGV[2])
call('PUBLISH', step.channel, result)
if is[2] == 'running' then return { 'done', { '', is[3] }, '' } end
return { 'done', {}, '' }
