-- Ends the hold on messages. ARGV: prefix, session, then steps:
--   F holder queue gone count id...                  forgets them
--   R holder queue gone id failed delay              back, at once or after a delay in ms; of the dead: left to other sessions
--   L holder queue gone id reason                    dead, and left to other sessions
--   M holder queue gone id version count exchange... ttl bytes count (queue list)... text    moved to other queues
-- The holder of the dead is `d`. A reader that is gone has gone=1.
-- Answers for each step (for F: for all of its ids) 1: done, 0: it wasn't held, 2: stale, 3: refused by a full queue, 4: a key
-- of somebody else's is where it was to go, and nothing was done; and last how many messages died. LOST: the session has ended.
local session = ARGV[2]
if not is_alive(session) then return 'LOST' end
local a, answers = 3, {}

local function key(holder, q)
  if holder == 'd' then return R .. 'dying.' .. session end
  return R .. 'unacked.' .. session .. '.' .. holder .. '.' .. q
end

-- What isn't held any more, although the session is alive, went with its queue, if the holder did too.
local function missing(holder, q)
  if holder == 'd' then return 0 end
  return call('SISMEMBER', R .. 'holders.' .. q, session .. '.' .. holder) == 1 and 0 or 1
end

local function move(held, q, holder)
  local id, version, exchanges = ARGV[a], ARGV[a + 1], a + 3
  a = exchanges + tonumber(ARGV[a + 2])
  local ttl, bytes, nt = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local targets = a + 3
  local last = a - 1
  a = targets + 2 * nt + 1
  if (call('HGET', R .. 'meta', 'ver') or '0') ~= version then return 2 end
  for i = exchanges, last do
    -- A key of somebody else's has no rows, and keeps nobody else's messages.
    if common().holds_rows(ARGV[i]) and not is_unchanged(ARGV[i]) then return 2 end
  end
  local m = call('HGET', held, id)
  if not m then return missing(holder, q) end
  local at
  if holder == 'd' then at = tonumber(m:match('^%a+ (%d+) ')) end
  for t = targets, targets + 2 * nt - 1, 2 do
    if common().is_taken(ARGV[t]) then return 4 end
  end
  call('HDEL', held, id)
  local answer = 1
  for t = targets, targets + 2 * nt - 1, 2 do
    if not common().put(ARGV[t], common().limits(ARGV[t]), tonumber(ARGV[t + 1]), ARGV[targets + 2 * nt], ttl, bytes, at) then answer = 3 end
  end
  return answer
end

-- Leaves a dead message to other sessions; false if that can't be said of it.
local function leave_to_others(record)
  local reason, at, left, rest = record:match('^(%S+) (%S+) (%S+) (.*)$')
  if not reason then return false end
  -- Those that left it may do so again when they are too many.
  if left == '-' or #left > 4000 then left = ',' end
  call('RPUSH', R .. 'dead', reason .. ' ' .. at .. ' ' .. left .. session .. ', ' .. rest)
  return true
end

-- What goes back to one queue goes together: to somebody who waits and gives nothing back, or to where it was.
local returned, to, from, holders = {}, nil, {}, 0
local function give_back()
  if not to then return end
  -- In the order in which they would be taken.
  table.sort(returned, function(one, other)
    local a, b = one.id:sub(-1), other.id:sub(-1)
    if a ~= b then return a < b end
    return tonumber(one.id) < tonumber(other.id)
  end)
  local ids, texts, dies = {}, {}, false
  for i, one in ipairs(returned) do
    local _, _, expires = marked(one.m)
    dies = dies or (expires > 0 and expires <= now())
    ids[i], texts[i] = one.id, one.m
  end
  local given = dies and 0 or hand_over(to, nil, texts, 1, #texts, ids, from, holders)
  local rest = {}
  for i = given + 1, #returned do rest[#rest + 1] = returned[i] end
  if #rest > 0 then common().back(to, rest) end
  returned, to, from, holders = {}, nil, {}, 0
end

while a <= #ARGV do
  local what, holder, q, gone = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  local held, answer = key(holder, q), 1
  a = a + 4
  if what ~= 'R' or q ~= to then give_back() end
  if what == 'F' then
    local count, removed = tonumber(ARGV[a]), 0
    for i = a + 1, a + count, CHUNK do
      removed = removed + call('HDEL', held, unpack(ARGV, i, math.min(i + CHUNK - 1, a + count)))
    end
    if removed < count then answer = missing(holder, q) end
    a = a + 1 + count
  elseif what == 'R' then
    local id, failed, delay = ARGV[a], ARGV[a + 1] == '1', tonumber(ARGV[a + 2])
    a = a + 3
    local m = call('HGET', held, id)
    if not m then answer = missing(holder, q)
    elseif holder == 'd' then
      if leave_to_others(m) then call('HDEL', held, id) else answer = 0 end
    elseif delay < 0 and common().is_taken(q) then answer = 4
    else
      call('HDEL', held, id)
      m = common().remark(m, id, failed)
      if delay < 0 then
        local whose = session .. '.' .. holder
        if not from[whose] then
          from[whose] = true
          holders = holders + 1
        end
        to = q
        returned[#returned + 1] = {id = id, m = m}
      else
        common().put_later(q, 'b', 0, -1, 0, m, now() + delay)
      end
    end
  elseif what == 'L' then
    local id, reason = ARGV[a], ARGV[a + 1]
    a = a + 2
    local m = call('HGET', held, id)
    if not m then answer = missing(holder, q)
    elseif holder == 'd' then
      if leave_to_others(m) then call('HDEL', held, id) else answer = 0 end
    else
      call('HDEL', held, id)
      -- Without its queue's declaration nobody could say where it goes: the queue was deleted.
      local decl = call('HGET', R .. 'q.' .. q, 'decl') or ''
      if decl ~= '' then
        local head = reason .. ' ' .. string.format('%d', now()) .. ' ,' .. session .. ', '
        call('RPUSH', R .. 'dead', head .. #decl .. ' ' .. decl .. m)
      end
    end
  else
    answer = move(held, q, holder)
  end
  answers[#answers + 1] = answer
  if gone == '1' and holder ~= 'd' and call('EXISTS', held) == 0 then
    call('SREM', R .. 'session.' .. session, 'h' .. holder .. ' ' .. q)
    call('SREM', R .. 'holders.' .. q, session .. '.' .. holder)
    common().forget(q)
  end
end
give_back()
answers[#answers + 1] = died
return answers
