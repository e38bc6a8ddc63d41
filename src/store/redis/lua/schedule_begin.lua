-- Gives the armed slot to one asker at a time.
-- KEYS: 1 the schedule
-- ARGV: 1 generation, 2 slot, 3 asker, 4 until when in ms, 5 now in ms
-- Answers {'yours' | 'held' | 'other', the schedule's fields}

local key = KEYS[1]
local is = call('HMGET', key, 'generation', 'state', 'armed', 'holder', 'until')
if is[1] ~= ARGV[1] or is[2] ~= 'active' or is[3] ~= ARGV[2] then return { 'other', fields(key) } end
if is[4] and is[4] ~= ARGV[3] and tonumber(is[5]) > tonumber(ARGV[5]) then return { 'held', {} } end
call('HSET', key, 'holder', ARGV[3], 'until', ARGV[4])
return { 'yours', fields(key) }
