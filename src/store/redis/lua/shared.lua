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

-- Adds a task if its message may not have been published: it is ready, and nobody has claimed it yet.
local function add_if_unclaimed(released, base, name)
  local is = call('HMGET', base .. 'task:' .. name, 'state', 'fence', 'address', 'priority', 'body')
  if is[1] == 'queued' and not is[2] then add_released(released, name, is[3], is[4], is[5]) end
end

-- The dependents of an ended task whose messages may not have been published.
local function unclaimed_dependents(base, dependents)
  local released = {}
  for name in string.gmatch(dependents or '', '%S+') do add_if_unclaimed(released, base, name) end
  return released
end
