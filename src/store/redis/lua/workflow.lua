-- Reads a workflow with all its tasks, children after their parent, as one step. Writes nothing.
-- KEYS: 1 root
-- Answers false | {state, head, created, ended, {task...}}, each task as in read.rs

local is = call('HMGET', KEYS[1], 'kind', 'state', 'head', 'created', 'ended')
if is[1] ~= 'workflow' then return false end
local base, tasks = base_of(KEYS[1]), {}
local function add(names)
  for _, name in ipairs(names) do
    local task = base .. 'task:' .. name
    tasks[#tasks + 1] = call('HMGET', task, 'head', 'state', 'attempts', 'crashes', 'session', 'started',
      'ended', 'due', 'history', 'dependencies', 'parent', 'tolerated')
    local children = call('HGET', task, 'children')
    if children then add(words(children)) end
  end
end
add(call('LRANGE', base .. 'order', 0, -1))
return { is[2], is[3], is[4], is[5], tasks }
