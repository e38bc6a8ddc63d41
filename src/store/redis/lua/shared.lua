-- What the steps share. scripts.rs puts the constants (CANCELLED, ATTEMPT_LOST ...) above this text and a
-- step below it.
--
-- Nothing is written before everything that can be wrong has been looked at: an error in a script does not
-- undo what the script has written. Lists of any length are walked, never unpacked: a table of some
-- thousand entries does not fit on Lua's stack.

local call = redis.call
local ENDED = { completed = true, failed = true, cancelled = true, expired = true, skipped = true }

-- Writes a value for a mark into a text that we made ourselves.
local function fill(text, mark, value)
  return (string.gsub(text, mark, (string.gsub(value, '%%', '%%%%'))))
end

-- Everything of a root starts with this: 'gleitzeit:{ID}:'.
local function base_of(root)
  return string.sub(root, 1, -5)
end

-- Appends to the history, one JSON object per line, and keeps the last HISTORY_MAX.
local function remember(history, entries, entry)
  entries = tonumber(entries) or 0
  if not history or entries == 0 then return entry, 1 end
  if entries >= HISTORY_MAX then
    return string.sub(history, string.find(history, '\n', 1, true) + 1) .. '\n' .. entry, entries
  end
  return history .. '\n' .. entry, entries + 1
end

local function add_released(released, name, address, priority, body)
  local at = #released
  released[at + 1], released[at + 2], released[at + 3], released[at + 4] = name, address, priority, body
end

-- A text of ids with spaces between, as a list.
local function words(text)
  local list = {}
  for word in string.gmatch(text or '', '%S+') do list[#list + 1] = word end
  return list
end

-- Those of these tasks whose messages may not have been published: released, and nobody has claimed them
-- since. `free` is the fence that a task had when it was released; both are absent before a first claim.
local function unclaimed(base, names)
  local released = {}
  for _, name in ipairs(names) do
    local is = call('HMGET', base .. 'task:' .. name, 'state', 'fence', 'free', 'address', 'priority', 'body')
    if is[1] == 'queued' and is[2] == is[3] then add_released(released, name, is[4], is[5], is[6]) end
  end
  return released
end

-- Those that one step has released and nobody has claimed since. `list` is what that step has left in the
-- record of the task it was for: the fence of its lease, then what it released, each as NAME or NAME@FENCE.
local function released_by(base, list, fence)
  local released = {}
  local own, rest = string.match(list or '', '^(%d+) (.*)$')
  if not own or own ~= fence then return released end
  for name, free in string.gmatch(rest, '([^%s@]+)@?(%d*)') do
    local is = call('HMGET', base .. 'task:' .. name, 'state', 'fence', 'address', 'priority', 'body')
    if is[1] == 'queued' and (is[2] or '') == free then add_released(released, name, is[3], is[4], is[5]) end
  end
  return released
end

-- Tells those who read what tasks give that an attempt has ended, if it has given anything; output.lua has what `given`
-- is. Where the pieces are gone there is nobody to tell.
local function end_given(task, root, given, fence, attempt, state)
  if not given or string.match(given, '^%d+') ~= fence then return end
  local base = base_of(root)
  local stream = base .. 'output'
  if call('EXISTS', stream) == 0 then return end
  if task == root then
    call('XADD', stream, '*', 'attempt', attempt, 'fence', fence, 'end', state)
  else
    local name = string.sub(task, #base + 6)
    call('XADD', stream, '*', 'task', name, 'attempt', attempt, 'fence', fence, 'end', state)
  end
  call('PEXPIRE', stream, OUTPUT_TTL)
  call('HINCRBY', root, 'given_bytes', ENTRY_BYTES)
end

-- Adds those of `others` to `released` that are not in it yet.
local function add_missing(released, others)
  local seen = {}
  for at = 1, #released, 4 do seen[released[at]] = true end
  for at = 1, #others, 4 do
    if not seen[others[at]] then
      add_released(released, others[at], others[at + 1], others[at + 2], others[at + 3])
    end
  end
end

-- Every task that tasks of the workflow have planned, and every one that those have planned in turn.
local function all_children(base)
  local names = {}
  for _, parent in ipairs(call('LRANGE', base .. 'parents', 0, -1)) do
    for _, name in ipairs(words(call('HGET', base .. 'task:' .. parent, 'children'))) do
      names[#names + 1] = name
    end
  end
  return names
end

-- Every task of the workflow: those of the file in its order, then children.
local function all_tasks(base)
  local names = call('LRANGE', base .. 'order', 0, -1)
  for _, name in ipairs(all_children(base)) do names[#names + 1] = name end
  return names
end

-- 1 if both digests are there and not the same.
local function differs(known, given)
  return known and given ~= '' and known ~= given and 1 or 0
end
