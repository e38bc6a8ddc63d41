-- Records what was fired and arms the next slot.
-- KEYS: 1 the schedule
-- ARGV: 1 generation, 2 slot, 3 next slot or '', 4 last slot fired or '', 5 its run, 6 fired, 7 missed, 8 overlapped
-- Answers 1, or 0 if the slot is not the armed one

local key = KEYS[1]
local is = call('HMGET', key, 'generation', 'state', 'armed')
if is[1] ~= ARGV[1] or is[2] ~= 'active' or is[3] ~= ARGV[2] then return { 0 } end
call('HSET', key, 'armed', ARGV[3])
call('HDEL', key, 'holder', 'until')
if ARGV[4] ~= '' then call('HSET', key, 'last_slot', ARGV[4], 'last_run', ARGV[5]) end
for place, field in ipairs({ 'fired', 'missed', 'overlapped' }) do
  if ARGV[5 + place] ~= '0' then call('HINCRBY', key, field, ARGV[5 + place]) end
end
return { 1 }
