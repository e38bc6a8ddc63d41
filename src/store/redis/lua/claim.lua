-- Takes the lease of a task.
-- KEYS: 1 task, 2 root (the same for a task on its own), 3 its result, 4... results it wants
-- ARGV: 1 attempt, 2 session, 3 fence to take over or '', 4 now, 5 head, 6 channel, 7 result TTL in ms,
--       8 tombstone TTL in ms, 9 digest or '', 10 how many bytes of results it wants at most,
--       11 the run that the message is of, or '', 12 channel of what moves, 13 what it is told of a lease
-- Answers {'run', fence, attempt, crashes, history, {input...}, {child...}, bytes of results that are too many,
--          or '', run} | {'held', session, fence} | {'waiting', {released...}, run} | {'next', attempt, due}
--       | {'over', state, {released...}, differs, run} | {'superseded'} | {'lost', run} | {'unknown'} | {'clash'}

local task, root, result = KEYS[1], KEYS[2], KEYS[3]
local attempt, session, over, now, head = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local alone = task == root -- and somebody knows it: claim_new.lua has seen to that

local is = call('HMGET', task, 'kind', 'state', 'attempts', 'fence', 'session', 'crashes', 'due', 'children',
  'resume', 'released', 'digest')
local kind, state, fence, children = is[1], is[2], is[4], is[8]
local attempts, crashes = tonumber(is[3]) or 0, tonumber(is[6]) or 0

if alone and kind == 'workflow' then return { 'clash' } end

-- Somebody cancelled the task before anybody had seen it: it ends now, so that whoever follows it learns.
if alone and kind == 'mark' then
  call('HSET', task, 'kind', 'task', 'state', 'cancelled', 'head', head, 'created', now, 'ended', now)
  if ARGV[9] ~= '' then call('HSETNX', task, 'digest', ARGV[9]) end
  call('PEXPIRE', task, ARGV[8])
  call('SET', result, head .. fill(CANCELLED, NOW_MARK, now), 'PX', ARGV[7])
  call('PUBLISH', ARGV[6], result)
  return { 'over', 'cancelled', {}, 0, 1 }
end

local flow = call('HMGET', root, 'run', 'kind', 'state', 'floor')
local run, told = tonumber(flow[1]) or 1, tonumber(ARGV[11])
-- The store has lost a retry of the workflow.
if told and not alone and told > run and flow[2] == 'workflow' and flow[3] ~= 'accepted' then
  return { 'lost', run }
end
if not alone and not state then
  -- A mark; or a retry has thrown children away, and this may be the message of one.
  if flow[2] == 'mark' or flow[4] then return { 'over', 'cancelled', {}, 0, 1 } end
  return { 'unknown' }
end

if ARGV[9] ~= '' and not is[11] then call('HSET', task, 'digest', ARGV[9]) end
if alone and told and told > run and (not ENDED[state] or state == 'failed' or state == 'expired') then
  -- The store has lost the retry that began this run: it begins now.
  run, state, attempts, crashes = told, 'queued', 0, 0
  fence = tostring((tonumber(fence) or 0) + FORGOTTEN_LEASES_MAX)
  call('HDEL', task, 'ended', 'due')
  call('HSET', task, 'run', run, 'crashes', 0)
  call('PERSIST', task)
  call('DEL', result)
end
if ENDED[state] then
  return { 'over', state, released_by(base_of(root), is[10], fence), differs(is[11], ARGV[9]), run }
end
if told and told < run then return { 'superseded' } end
if state == 'waiting' then
  local released = {}
  if children then
    released = unclaimed(base_of(root), words(children))
    add_missing(released, released_by(base_of(root), is[10], fence))
  end
  return { 'waiting', released, run }
end
if state == 'running' and over ~= fence then return { 'held', is[5], tonumber(fence) } end

local old = fence and call('HMGET', task, 'history', 'entries', 'started') or {}
local history, entries = old[1] or '', old[2]
if state == 'running' then
  local entry = fill(fill(ATTEMPT_LOST, NOW_MARK, now), ATTEMPT_MARK, tostring(attempts))
  entry = fill(fill(entry, SESSION_MARK, is[5]), STARTED_MARK, old[3])
  history, entries = remember(history, entries, entry)
  crashes = crashes + 1
  attempts = attempts + 1
  call('HSET', task, 'crashes', crashes, 'history', history, 'entries', entries)
else
  -- An attempt that has waited for its children has started before, and goes on.
  local expected = attempts + 1
  if is[9] then expected = math.max(attempts, 1) end
  if attempt < expected then return { 'next', expected, is[7] or now } end
  -- A higher one than expected: the store has lost its last writes, and the message knows better.
  attempts = attempt
  if is[9] then call('HDEL', task, 'resume') end
end

local next_fence = (tonumber(fence) or 0) + 1
call('HSET', task, 'state', 'running', 'attempts', attempts, 'fence', next_fence, 'session', session,
  'started', now)
call('PUBLISH', ARGV[12], ARGV[13])

-- Measured before any is read: the answer is put together in memory.
local inputs, bytes = {}, 0
for at = 4, #KEYS do bytes = bytes + call('STRLEN', KEYS[at]) end
if bytes > tonumber(ARGV[10]) then
  return { 'run', next_fence, attempts, crashes, history, {}, words(children), bytes, run }
end
for at = 4, #KEYS do inputs[at - 3] = call('GET', KEYS[at]) end
return { 'run', next_fence, attempts, crashes, history, inputs, words(children), '', run }
