-- Records a schedule, unless what is there is as new.
-- KEYS: 1 the schedule, 2 the index
-- ARGV: 1 name, 2 generation, 3 state, 4 definition, 5 armed slot or '', 6 now, 7 TTL of a removed one in ms
-- Answers the schedule's fields

local key, index = KEYS[1], KEYS[2]
local is = call('HMGET', key, 'generation', 'state')
if tonumber(is[1] or '0') < tonumber(ARGV[2]) then
  if ARGV[3] == 'removed' then
    call('DEL', key)
    call('ZREM', index, ARGV[1])
  else
    if is[2] == 'removed' then call('DEL', key) end
    call('ZADD', index, 0, ARGV[1])
    call('PERSIST', key)
  end
  call('HSET', key, 'generation', ARGV[2], 'state', ARGV[3], 'definition', ARGV[4], 'armed', ARGV[5], 'changed', ARGV[6])
  call('HSETNX', key, 'created', ARGV[6])
  call('HDEL', key, 'holder', 'until')
  if ARGV[3] == 'removed' then call('PEXPIRE', key, ARGV[7]) end
end
return fields(key)
