-- How a step moves through the graph of a workflow: who is ready because of what has ended, whose turn it is,
-- and what else ends. A step is made by `begin`, changed in memory, and written by `conclude`.
--
-- A task that is ready is released at once where nothing bounds it. Else it stands in a queue, a sorted set
-- whose lowest score is next: `ready`, or `ready:PARENT` for the children of a parent that bounds them (their
-- `gate`). `turns` holds each such parent that has room and somebody in its queue, with the score of the
-- first. So the next of all is the lower one of two first members, and no queue is ever walked.
--
-- A child has its place at the gate from its release to its end, also while it waits for children of its own;
-- then it needs no more than a turn of the workflow. `kept:PARENT` is a list of children that a retry has reset
-- together with children of theirs: they need a place, but no turn, and go in before all others.

-- More than there are turns in a workflow, so that priority comes before the order of becoming ready. Nine
-- times as many is still a whole number for a double.
local TURNS_MAX = 2 ^ 42

local function begin(root, now, channel)
  local is = call('HMGET', root, 'left', 'failed', 'excused', 'bytes', 'slim_bytes', 'max_parallel', 'active',
    'turn')
  return {
    root = root, base = base_of(root), now = now, channel = channel,
    left = tonumber(is[1]) or 0, failed = tonumber(is[2]) or 0, excused = tonumber(is[3]) or 0,
    bytes = tonumber(is[4]) or 0, slim_bytes = tonumber(is[5]) or 0,
    max_parallel = tonumber(is[6]), active = tonumber(is[7]) or 0, turn = tonumber(is[8]) or 0,
    -- What the step has written by itself, released, and ended beside its task.
    written = {}, endings = {}, released = {}, names = {}, ended = {},
    -- Bounded parents whose queue or room has changed, and whether anything of that kind has.
    gates = {}, moved = false,
  }
end

local function release(step, name, address, priority, body, fence)
  local task = step.base .. 'task:' .. name
  if fence then
    call('HSET', task, 'state', 'queued', 'free', fence)
    step.names[#step.names + 1] = name .. '@' .. fence
  else
    call('HSET', task, 'state', 'queued')
    step.names[#step.names + 1] = name
  end
  add_released(step.released, name, address, priority, body)
end

-- A task waits for nothing but its turn.
local function ready(step, name, gate, address, priority, body, fence)
  if not step.max_parallel and not gate then return release(step, name, address, priority, body, fence) end
  step.turn = step.turn + 1
  step.moved = true
  local queue = step.base .. 'ready'
  if gate then
    step.gates[gate] = true
    queue = queue .. ':' .. gate
  end
  call('ZADD', queue, string.format('%.0f', (9 - tonumber(priority)) * TURNS_MAX + step.turn), name)
end

local let_in

-- What a retry has reset of a level (the file, or the children of one parent) begins: whose children are to run
-- first waits for them, everybody else is ready. Whoever waits for a dependency is not concerned.
local function begin_again(step, names)
  local gate
  for _, name in ipairs(names) do
    local is = call('HMGET', step.base .. 'task:' .. name, 'state', 'pending', 'gate', 'open', 'children')
    if is[1] == 'waiting' and is[2] == '0' then
      if (tonumber(is[4]) or 0) == 0 then
        local message = call('HMGET', step.base .. 'task:' .. name, 'address', 'priority', 'body', 'fence')
        ready(step, name, is[3], message[1], message[2], message[3], message[4])
      elseif is[3] then
        gate = is[3]
        call('RPUSH', step.base .. 'kept:' .. gate, name)
      else
        begin_again(step, words(is[5]))
      end
    end
  end
  if gate then let_in(step, gate) end
end

-- Gives places at a gate to those in `kept`, as far as there is room, and so lets their children begin.
function let_in(step, gate)
  local task, kept = step.base .. 'task:' .. gate, step.base .. 'kept:' .. gate
  if call('EXISTS', kept) == 0 then return end
  local is = call('HMGET', task, 'active', 'bound')
  for _ = 1, tonumber(is[2]) - tonumber(is[1]) do
    local name = call('LPOP', kept)
    if not name then return end
    call('HINCRBY', task, 'active', 1)
    begin_again(step, words(call('HGET', step.base .. 'task:' .. name, 'children')))
  end
end

-- A task that was released has ended, or has planned children and waits for them.
local function give_up_turn(step)
  if step.max_parallel then
    step.active = step.active - 1
    step.moved = true
  end
end

-- A child that was released has ended.
local function give_up_place(step, gate)
  if not gate then return end
  call('HINCRBY', step.base .. 'task:' .. gate, 'active', -1)
  let_in(step, gate)
  step.gates[gate] = true
  step.moved = true
end

-- Brings the place of a bounded parent in `turns` up to date.
local function look_at_gate(step, gate)
  local first = call('ZRANGE', step.base .. 'ready:' .. gate, 0, 0, 'WITHSCORES')
  local is = call('HMGET', step.base .. 'task:' .. gate, 'active', 'bound')
  if first[1] and tonumber(is[1]) < tonumber(is[2]) then
    call('ZADD', step.base .. 'turns', first[2], gate)
  else
    call('ZREM', step.base .. 'turns', gate)
  end
end

-- Releases whoever's turn it is.
local function take_turns(step)
  if not step.moved then return end
  for gate in pairs(step.gates) do look_at_gate(step, gate) end
  while not step.max_parallel or step.active < step.max_parallel do
    local first = call('ZRANGE', step.base .. 'ready', 0, 0, 'WITHSCORES')
    local gated = call('ZRANGE', step.base .. 'turns', 0, 0, 'WITHSCORES')
    local name
    if gated[1] and (not first[1] or tonumber(gated[2]) < tonumber(first[2])) then
      local gate = gated[1]
      name = call('ZPOPMIN', step.base .. 'ready:' .. gate)[1]
      call('HINCRBY', step.base .. 'task:' .. gate, 'active', 1)
      look_at_gate(step, gate)
    elseif first[1] then
      name = call('ZPOPMIN', step.base .. 'ready')[1]
    else
      return
    end
    step.active = step.active + 1
    local is = call('HMGET', step.base .. 'task:' .. name, 'address', 'priority', 'body', 'fence')
    release(step, name, is[1], is[2], is[3], is[4])
  end
end

-- Writes new tasks, and what of them is ready. They stand in ARGV from `at` on, nine values each: id, head,
-- address, priority, body, number of dependencies, dependencies, dependents, '1' if tolerated. Both lists
-- are ids with spaces between, each after the sign of its edge: ! fail, ~ skip, + continue.
-- `fence` is one that no lease of an earlier task of the same name had, or nil. Answers their names.
local function plant(step, at, count, parent, gate, fence)
  local planted = {}
  for index = 1, count do
    local name, pending = ARGV[at], ARGV[at + 5]
    local task = step.base .. 'task:' .. name
    local at_once = pending == '0' and not step.max_parallel and not gate and not fence
    call('HSET', task, 'state', at_once and 'queued' or 'waiting', 'head', ARGV[at + 1],
      'address', ARGV[at + 2], 'priority', ARGV[at + 3], 'body', ARGV[at + 4], 'pending', pending,
      'dependencies', ARGV[at + 6], 'dependents', ARGV[at + 7])
    if ARGV[at + 8] ~= '' then call('HSET', task, 'tolerated', 1) end
    if parent then call('HSET', task, 'parent', parent) end
    if gate then call('HSET', task, 'gate', gate) end
    if fence then call('HSET', task, 'fence', fence) end
    if at_once then
      step.names[#step.names + 1] = name
      add_released(step.released, name, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
    elseif pending == '0' then
      ready(step, name, gate, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], fence)
    end
    planted[index] = name
    at = at + 9
  end
  return planted
end

-- What an edge makes of a dependent when the dependency ends: nil, 'skip' or 'fail'.
local function effect(state, sign)
  if state == 'completed' or sign == '+' then return nil end
  if state == 'skipped' or sign == '~' then return 'skip' end
  return 'fail'
end

-- Counts an ended task: a child for its parent, any other for the workflow.
local function count_end(step, parent, tolerated, state, bytes, slim_bytes)
  if parent then
    local task = step.base .. 'task:' .. parent
    if call('HINCRBY', task, 'open', -1) > 0 then return end
    local is = call('HMGET', task, 'address', 'priority', 'body', 'fence')
    -- It has its place at its gate already.
    return ready(step, parent, nil, is[1], is[2], is[3], is[4])
  end
  step.left = step.left - 1
  step.bytes, step.slim_bytes = step.bytes + bytes, step.slim_bytes + slim_bytes
  if state == 'completed' or state == 'skipped' then return end
  if tolerated then
    step.excused = step.excused + 1
  else
    step.failed = step.failed + 1
  end
end

-- The ending of a task that does not run because of `cause`.
local function unrun_ending(step, verdict, cause)
  local known = step.endings[verdict .. cause]
  if known then return known end
  local text = verdict == 'skip' and SKIPPED or DEPENDENCY_FAILED
  text = fill(fill(text, NOW_MARK, step.now), DEPENDENCY_MARK, cause)
  step.endings[verdict .. cause] = text
  return text
end

-- A task has ended: its dependents learn it, and those that do not run because of that end too, and so on.
local function settle(step, name, state, dependents)
  local causes, at = { { name, state, dependents } }, 1
  while causes[at] do
    local cause, how = causes[at][1], causes[at][2]
    for sign, dependent in string.gmatch(causes[at][3] or '', '([!~+])(%S+)') do
      local task = step.base .. 'task:' .. dependent
      local verdict = effect(how, sign)
      if call('HINCRBY', task, 'pending', -1) > 0 then
        if verdict then
          local known = call('HGET', task, 'verdict')
          if not known or known == 'skip' and verdict == 'fail' then
            call('HSET', task, 'verdict', verdict, 'cause', cause)
          end
        end
      else
        local is = call('HMGET', task, 'gate', 'address', 'priority', 'body', 'fence', 'verdict', 'cause')
        local because = cause
        if is[6] == 'fail' or is[6] and verdict ~= 'fail' then verdict, because = is[6], is[7] end
        if not verdict then
          ready(step, dependent, is[1], is[2], is[3], is[4], is[5])
        else
          local final = verdict == 'skip' and 'skipped' or 'failed'
          is = call('HMGET', task, 'head', 'dependents', 'parent', 'tolerated')
          local length = end_unrun(step, dependent, is[1], final, unrun_ending(step, verdict, because))
          count_end(step, is[3], is[4], final, length, length)
          step.ended[#step.ended + 1] = dependent
          step.ended[#step.ended + 1] = final
          causes[#causes + 1] = { dependent, final, is[2] }
        end
      end
    end
    at = at + 1
  end
end

-- Gives turns, and writes what the step has counted.
local function save(step)
  take_turns(step)
  call('HSET', step.root, 'left', step.left, 'failed', step.failed, 'excused', step.excused,
    'bytes', step.bytes, 'slim_bytes', step.slim_bytes)
  if step.moved then
    call('HSET', step.root, 'active', step.active, 'turn', string.format('%.0f', step.turn))
  end
end

-- As `save`, and ends the workflow if none of its tasks is open. Answers the workflow's state.
local function conclude(step)
  save(step)
  if step.left > 0 then return 'running' end
  local final = 'completed'
  if step.failed > 0 then final = 'failed' end
  end_workflow(step, final, WORKFLOW_ENDED[final])
  return final
end
