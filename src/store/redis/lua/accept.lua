-- Notes what the broker has confirmed, unless somebody knows it already.
-- KEYS: 1 root
-- ARGV: 1 'task' | 'workflow', 2 head, 3 now, 4 digest or '', 5 when the broker delivers it or '',
--       6 a task's message to keep until it ends (PRIORITY ADDRESS BODY) or ''

if call('EXISTS', KEYS[1]) == 0 then
  call('HSET', KEYS[1], 'kind', ARGV[1], 'state', 'accepted', 'head', ARGV[2], 'created', ARGV[3])
  if ARGV[5] ~= '' then
    call('HSET', KEYS[1], 'due', ARGV[5])
    if ARGV[1] == 'task' then call('HSET', KEYS[1], 'state', 'delayed') end
  end
end
if ARGV[4] ~= '' then call('HSETNX', KEYS[1], 'digest', ARGV[4]) end
if ARGV[6] ~= '' then
  local is = call('HMGET', KEYS[1], 'kind', 'state')
  if is[1] == 'task' and not ENDED[is[2]] then call('HSETNX', KEYS[1], 'sent', ARGV[6]) end
end
return 1
