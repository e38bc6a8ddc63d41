-- Takes a workflow in.
-- KEYS: 1 root
-- ARGV: 1 now, 2 the start of its document, 3 result TTL in ms, 4 tombstone TTL in ms, 5 channel,
--       6 why it is refused (JSON) or '', 7 max_parallel or '', 8 timeout in ns or '', 9 = and the reply or '',
--       10 digest or '', 11 number of tasks, then the tasks in the order of the file as `plant` wants them, then
--       the channel of what moves, and what it is told
-- Answers {'running', {released...}, differs, run, timeout in ns or ''} | {'over', state, differs} | {'clash'}

local root, now = KEYS[1], ARGV[1]
local total = tonumber(ARGV[11])

local is = call('HMGET', root, 'kind', 'state', 'digest', 'run', 'timeout')
if is[1] == 'task' then return { 'clash' } end
local different = differs(is[3], ARGV[10])
if is[1] == 'workflow' and is[2] ~= 'accepted' then
  if is[2] ~= 'running' then return { 'over', is[2], different } end
  return { 'running', unclaimed(base_of(root), all_tasks(base_of(root))), different, is[4] or 1, is[5] or '' }
end

call('HSET', root, 'kind', 'workflow', 'state', 'running', 'head', ARGV[2], 'ttl', ARGV[3],
  'tombstone', ARGV[4], 'left', total, 'failed', 0, 'excused', 0, 'bytes', 0, 'slim_bytes', 0)
for at, name in pairs({ [7] = 'max_parallel', [8] = 'timeout', [9] = 'reply', [10] = 'digest' }) do
  if ARGV[at] ~= '' then call('HSETNX', root, name, ARGV[at]) end
end
call('HSETNX', root, 'created', now)
call('PERSIST', root)
local step = begin(root, now, ARGV[5])
for _, name in ipairs(plant(step, 12, total)) do call('RPUSH', step.base .. 'order', name) end

-- Somebody cancelled it before anybody had seen it.
if is[1] == 'mark' then
  cancel_workflow(step, CANCELLED, 'cancelled', WORKFLOW_ENDED.cancelled)
  return { 'over', 'cancelled', different }
end
if ARGV[6] ~= '' then
  end_workflow(step, 'failed', WORKFLOW_REFUSED, ARGV[6])
  return { 'over', 'failed', different }
end
if total == 0 then return { 'over', conclude(step), different } end
if step.moved then save(step) end
call('PUBLISH', ARGV[#ARGV - 1], ARGV[#ARGV])
return { 'running', step.released, different, 1, ARGV[8] }
