-- Writes pieces that the attempt of a lease has given.
-- KEYS: 1 task, 2 root (the same for a task on its own), 3 the stream of the root
-- ARGV: 1 fence, 2 name of the task, or '' for one on its own, 3 attempt, 4 how many bytes of an attempt are kept,
--       5 how many of a root, 6 what an entry counts beside its text, 7 TTL in ms, 8 channel,
--       then for each piece its stream, its offset and its text
-- Answers {'written'} | {'full'} | {'lost'}
--
-- `given` of a task is the fence of a lease, and where the last piece ends that was written for it, or 'full';
-- `given_bytes` of a root is what all entries of its stream count together.

local task, root, stream = KEYS[1], KEYS[2], KEYS[3]
local fence, bytes_max, root_bytes_max, entry_bytes = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local is = redis.call('HMGET', task, 'state', 'fence', 'given')
if is[1] ~= 'running' or is[2] ~= fence then return { 'lost' } end
local of, known = string.match(is[3] or '', '^(%d+) (%w+)$')
local at = 0
if of == fence then
  if known == 'full' then return { 'full' } end
  at = tonumber(known)
end

local total = 0
if redis.call('EXISTS', stream) == 1 then total = tonumber(redis.call('HGET', root, 'given_bytes')) or 0 end

local function add(...)
  if ARGV[2] == '' then
    redis.call('XADD', stream, '*', 'attempt', ARGV[3], 'fence', fence, ...)
  else
    redis.call('XADD', stream, '*', 'task', ARGV[2], 'attempt', ARGV[3], 'fence', fence, ...)
  end
  total = total + entry_bytes
end

local answer, given = 'written', nil
for piece = 9, #ARGV, 3 do
  local offset, text = tonumber(ARGV[piece + 1]), ARGV[piece + 2]
  if offset >= bytes_max then
    add('truncated', 1)
    answer, given = 'full', 'full'
    break
  end
  -- What begins before is a repeat.
  if offset >= at then
    add('stream', ARGV[piece], 'offset', offset, 'text', text)
    total = total + #text
    at = offset + #text
    given = string.format('%.0f', at)
  end
end
if not given then return { answer } end

while total > root_bytes_max do
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 50)
  if #oldest == 0 then total = 0 end
  for _, entry in ipairs(oldest) do
    if total <= root_bytes_max then break end
    local fields = entry[2]
    total = total - entry_bytes
    if fields[#fields - 1] == 'text' then total = total - #fields[#fields] end
    redis.call('XDEL', stream, entry[1])
  end
end
redis.call('HSET', task, 'given', fence .. ' ' .. given)
redis.call('HSET', root, 'given_bytes', string.format('%.0f', total))
redis.call('PEXPIRE', stream, ARGV[7])
redis.call('PUBLISH', ARGV[8], ARGV[2])
return { answer }
