-- Puts profiles into a slot that has room for them. KEYS: the slot. ARGV: how long it is kept in milliseconds, the most
-- profiles, then field and value in turn.
local room = tonumber(ARGV[2]) - redis.call('HLEN', KEYS[1])
for at = 3, #ARGV, 2 do
  if room > 0 or redis.call('HEXISTS', KEYS[1], ARGV[at]) == 1 then
    room = room - redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {}
