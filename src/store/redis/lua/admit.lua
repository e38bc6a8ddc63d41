-- Settles with a bucket and takes from it; the arithmetic is that of `core::limit`.
-- KEYS: 1 the bucket
-- ARGV: 1 units a second, 2 burst, 3 since when that is configured in ms, 4 what was used beyond what was taken,
--       5 how long it is shut in us, 6 patience in us, 7 how long it is kept when it is full in ms, 8... costs
-- Answers {{waits in us}, us until one who was refused may come again or -1, units a second, burst}

local call, key = redis.call, KEYS[1]
local rate, burst, since = ARGV[1], ARGV[2], ARGV[3]
local time = call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local is = call('HMGET', key, 'full', 'rate', 'burst', 'since', 'shut')
-- When it is full by what was taken and given back, and when at the soonest.
local full, least = tonumber(is[1] or '0'), tonumber(is[5] or '0')
if is[4] and tonumber(is[4]) > tonumber(since) then
  rate, burst, since = is[2], is[3], is[4]
elseif is[2] and full > now and tonumber(rate) > tonumber(is[2]) then
  -- What a faster pace gives sooner is there sooner.
  full = now + (full - now) * (tonumber(is[2]) / tonumber(rate))
end
local holds, step = tonumber(burst), 1000000 / tonumber(rate)
local settle, shut, patience = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

if settle ~= 0 then full = math.max(full, now) + settle * step end
if shut > 0 then least = math.max(least, now + shut + (holds - 1) * step) end
local waits, refused = {}, -1
for place = 8, #ARGV do
  local cost, from = tonumber(ARGV[place]), math.max(full, least, now)
  local first = math.max(from + (math.min(cost, 1, holds) - holds) * step - now, 0)
  if first > patience then
    refused = first
    break
  end
  waits[#waits + 1] = string.format('%.0f', math.ceil(math.max(from + (math.min(cost, holds) - holds) * step - now, 0)))
  full = from + cost * step
end

-- Lua's own way to write a number loses its end.
local kept = math.min(math.ceil(math.max(full - now, least - now, 0) / 1000) + tonumber(ARGV[7]), 1e15)
call('HSET', key, 'full', string.format('%.3f', full), 'rate', rate, 'burst', burst, 'since', since,
  'shut', string.format('%.3f', least))
call('PEXPIRE', key, string.format('%.0f', kept))
return { waits, string.format('%.0f', math.ceil(refused)), rate, burst }
