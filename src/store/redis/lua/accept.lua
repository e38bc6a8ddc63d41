-- Notes what the broker has confirmed, unless somebody knows it already.
-- KEYS: 1 root
-- ARGV: 1 'task' | 'workflow', 2 head, 3 now, 4 digest or '', 5 when the broker delivers it or ''

if call('EXISTS', KEYS[1]) == 0 then
  call('HSET', KEYS[1], 'kind', ARGV[1], 'state', 'accepted', 'head', ARGV[2], 'created', ARGV[3])
  if ARGV[5] ~= '' then call('HSET', KEYS[1], 'state', 'delayed', 'due', ARGV[5]) end
end
if ARGV[4] ~= '' then call('HSETNX', KEYS[1], 'digest', ARGV[4]) end
return 1
