-- Reads a workflow with all its tasks, as one step. Writes nothing.
-- KEYS: 1 root
-- Answers false | {state, head, created, ended, {task...}}, each task as in read.rs

local is = call('HMGET', KEYS[1], 'kind', 'state', 'head', 'created', 'ended')
if is[1] ~= 'workflow' then return false end
local base, tasks = base_of(KEYS[1]), {}
for at, name in ipairs(call('LRANGE', base .. 'order', 0, -1)) do
  tasks[at] = call('HMGET', base .. 'task:' .. name, 'head', 'state', 'attempts', 'crashes', 'session',
    'started', 'ended', 'due', 'history', 'dependencies')
end
return { is[2], is[3], is[4], is[5], tasks }
