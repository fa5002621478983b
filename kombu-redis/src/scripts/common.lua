-- What the scripts share.

-- When what can't be done because of somebody else's key is tried again, in ms.
local LATER = 60000

-- Whether the key of an exchange's rows is not somebody else's.
local function holds_rows(exchange)
  local kind = call('TYPE', P .. '_kombu.binding.' .. exchange).ok
  return kind == 'set' or kind == 'none'
end

-- Writes nothing, and is the first write all the same: a server without memory refuses those that take some, unless
-- something was written before.
local function write_in_any_case() call('DEL', R .. 'nothing') end

local function mark(kind, id, failures, expires, bytes, rest)
  return string.format('{"_k%s":"%s:%d:%d:%d",', kind, id, failures, expires, bytes) .. rest
end

-- Size of a message as its queue counts it.
local function size(m)
  local id, _, _, bytes = marked(m)
  if id and bytes > 0 then return bytes end
  return #m
end

-- Limits of a queue: messages, bytes, what is done beyond them (d: drop the head, r: reject, x: reject and keep as
-- dead), time to live. Nil if it has none.
local function limits(q)
  local l = call('HGET', R .. 'q.' .. q, 'lim')
  if not l then return nil end
  local n, b, mode, ttl, dlx = l:match('^(%-?%d+),(%-?%d+),(%a),(%-?%d+),(%d)$')
  return {n = tonumber(n), b = tonumber(b), mode = mode, ttl = tonumber(ttl), keeps = dlx == '1'}
end

-- Whether somebody else uses the name of a queue.
local function is_taken(q)
  for step = 0, 3 do
    local kind = call('TYPE', P .. q .. STEP[step]).ok
    if kind ~= 'list' and kind ~= 'none' then return true end
  end
  return false
end

local function ready(q)
  local list = P .. q
  return call('LLEN', list) + call('LLEN', list .. STEP[1]) + call('LLEN', list .. STEP[2]) + call('LLEN', list .. STEP[3])
end

-- Keeps a dead message until somebody moves it, if its queue has a dead-letter exchange.
local function bury(q, reason, m, at)
  local f = call('HMGET', R .. 'q.' .. q, 'decl', 'dlx')
  if not f[2] then return end
  call('RPUSH', R .. 'dead', reason .. ' ' .. string.format('%d', at or now()) .. ' - ' .. #f[1] .. ' ' .. f[1] .. m)
  died = died + 1
end

-- Keeps the list of a queue for longer than the day for which an answer may have been left there. Other keys are somebody's.
local function keep(q)
  if call('TYPE', P .. q).ok == 'list' then call('PERSIST', P .. q) end
end

-- Makes a record of a queue that others have, so that it can be consumed from.
local function adopt(q)
  -- What is delayed may have been counted there before.
  if call('HSETNX', R .. 'q.' .. q, 'decl', '') == 1 then
    call('HSET', R .. 'q.' .. q, 'seq', string.format('%d', now() * 60))
  end
  keep(q)
end

-- Removes what was noted of a queue that others have when nobody here has anything of it any more: nobody tells when Python
-- deletes it.
local function forget(q)
  local meta = R .. 'q.' .. q
  local decl = call('HGET', meta, 'decl')
  if decl and decl ~= '' then return end
  if call('EXISTS', R .. 'consumers.' .. q, R .. 'holders.' .. q, R .. 'later.' .. q) == 0 then
    call('DEL', meta, R .. 'wants.' .. q)
  end
end

-- Sessions wait for what is due first; that it is sooner now they are told by a key that they watch. What is due they do
-- at the same time, and learn of what comes next by themselves.
local is_catching_up = false
local function tell_if_sooner(at)
  if is_catching_up then return end
  local first = call('ZRANGE', R .. 'due', 0, 0, 'WITHSCORES')[2]
  if not first or tonumber(at) < tonumber(first) then call('SET', R .. 'sooner', string.format('%d', at)) end
end

-- Something has to be done about a queue at a time: d: a delayed message comes, t: the head expires, x: it is unused
-- for too long.
local function schedule(what, q, at)
  tell_if_sooner(at)
  call('ZADD', R .. 'due', 'LT', at, what .. q)
end

-- How many messages consumers have room for: those that come have their takers already.
local function wanted(q)
  local n, all = 0, call('HGETALL', R .. 'wants.' .. q)
  if #all == 0 then return 0 end
  local is_single = call('HEXISTS', R .. 'q.' .. q, 'sac') == 1
  local active = is_single and call('ZRANGE', R .. 'consumers.' .. q, 0, 0)[1]
  for i = 1, #all, 2 do
    if not is_single or all[i] == active then n = n + room(all[i], all[i + 1]) end
  end
  return n
end

local function counted(q, lim, bytes)
  if lim and lim.b >= 0 then call('HINCRBY', R .. 'q.' .. q, 'bytes', bytes) end
end

local function pop_head(q)
  for step = 0, 3 do
    local m = call('RPOP', P .. q .. STEP[step])
    if m then return m, step end
  end
end

-- Another message is at the head, whose time may be over sooner than anybody looks.
local function look_at_head(q)
  for step = 0, 3 do
    local m = call('LINDEX', P .. q .. STEP[step], -1)
    if m then
      local id, _, expires = marked(m)
      if id and expires > 0 then schedule('t', q, expires) end
      return
    end
  end
end

-- Drops what is beyond the limits. What consumers wait for is theirs, and takes no place.
local function drop_heads(q, lim)
  if not lim or lim.mode ~= 'd' then return end
  local n = ready(q)
  local b = lim.b >= 0 and tonumber(call('HGET', R .. 'q.' .. q, 'bytes') or '0') or 0
  local function is_beyond()
    return n > 0 and ((lim.n >= 0 and n > lim.n) or (lim.b >= 0 and b > lim.b))
  end
  if not is_beyond() then return end
  local promised = {}
  for _ = 1, math.min(n, wanted(q)) do
    local m, step = pop_head(q)
    promised[#promised + 1] = {P .. q .. STEP[step], m}
    n, b = n - 1, b - size(m)
  end
  while is_beyond() do
    local m = pop_head(q)
    local s = size(m)
    n, b = n - 1, b - s
    counted(q, lim, -s)
    bury(q, 'maxlen', m)
  end
  for i = #promised, 1, -1 do call('RPUSH', promised[i][1], promised[i][2]) end
  look_at_head(q)
end

-- Puts a new message at the end of a queue; false if it refuses it.
local function put(q, lim, step, m, ttl, bytes, at)
  local list = P .. q .. STEP[step]
  if not lim and ttl < 0 then
    call('LPUSH', list, m)
    return true
  end
  if lim then
    local n
    if lim.b >= 0 then
      n = ready(q)
      -- Python takes without counting.
      if n == 0 then call('HSET', R .. 'q.' .. q, 'bytes', 0) end
    end
    if lim.mode ~= 'd' then
      n = math.max(0, (n or ready(q)) - wanted(q))
      local b = lim.b >= 0 and tonumber(call('HGET', R .. 'q.' .. q, 'bytes') or '0') or 0
      if (lim.n >= 0 and n + 1 > lim.n) or (lim.b >= 0 and b + bytes > lim.b) then
        if lim.mode == 'x' then bury(q, 'maxlen', m, at) end
        return false
      end
    end
    if lim.ttl >= 0 and (ttl < 0 or lim.ttl < ttl) then ttl = lim.ttl end
  end
  local expires = ttl >= 0 and (at or now()) + ttl or 0
  local counts = lim and lim.b >= 0
  if expires > 0 or counts then
    m = mark('q', '0', 0, expires, counts and bytes or 0, m:sub(2))
  end
  local len = call('LPUSH', list, m)
  if expires > 0 and len == 1 then schedule('t', q, expires) end
  counted(q, lim, bytes)
  drop_heads(q, lim)
  return true
end

-- Puts a message into a queue when its time comes. What is it: `n` a new one, `b` one that goes back.
local function put_later(q, what, step, ttl, bytes, m, at)
  local n = call('HINCRBY', R .. 'q.' .. q, 'later', 1)
  call('ZADD', R .. 'later.' .. q, at, string.format('%016d %s %d %d %d ', n, what, step, ttl, bytes) .. m)
  schedule('d', q, at)
end

-- Puts messages, each of them an id and a text, back to where they were in a list. In front of the list, from the right,
-- lie those that went back before, the lowest position first. Answers how many of them had to be moved, and their bytes.
local function merge(list, messages)
  table.sort(messages, function(one, other) return one.at < other.at end)
  local last, front, bytes, block = messages[#messages].at, {}, 0, 1
  -- A few are looked at first: most often there are none, and they may be large.
  while true do
    local some = call('LRANGE', list, -#front - block, -#front - 1)
    local goes_on = #some == block
    for i = #some, 1, -1 do
      local id = marked(some[i])
      local at = id and tonumber(id) or 0
      if at == 0 or at >= last then
        goes_on = false
        break
      end
      front[#front + 1] = {at = at, m = some[i]}
      bytes = bytes + #some[i]
    end
    if not goes_on then break end
    block = math.min(2 * block, 256)
  end
  if #front > 0 then call('LTRIM', list, 0, -#front - 1) end
  local i, j, chunk = #front, #messages, {}
  while i > 0 or j > 0 do
    if j == 0 or (i > 0 and front[i].at > messages[j].at) then
      chunk[#chunk + 1] = front[i].m
      i = i - 1
    else
      chunk[#chunk + 1] = messages[j].m
      j = j - 1
    end
    if #chunk == CHUNK or (i == 0 and j == 0) then
      call('RPUSH', list, unpack(chunk))
      chunk = {}
    end
  end
  return #front, bytes
end

-- Puts messages of a queue, each of them an id and a text, back to where they were, unless their time is over. Answers how
-- many others had to be moved, and their bytes.
local function back(q, messages)
  local lists, first, moved, bytes, size_of_all = {}, nil, 0, 0, 0
  for _, one in ipairs(messages) do
    local _, _, expires = marked(one.m)
    if expires > 0 and expires <= now() then
      bury(q, 'expired', one.m, expires)
    else
      one.at = tonumber(one.id)
      local step = tonumber(one.id:sub(-1))
      lists[step] = lists[step] or {}
      table.insert(lists[step], one)
      size_of_all = size_of_all + size(one.m)
      if expires > 0 then first = math.min(first or expires, expires) end
    end
  end
  if not next(lists) then return 0, 0 end
  for step, those in pairs(lists) do
    local n, b = merge(P .. q .. STEP[step], those)
    moved, bytes = moved + n, bytes + b
  end
  if first then schedule('t', q, first) end
  local lim = limits(q)
  counted(q, lim, size_of_all)
  drop_heads(q, lim)
  return moved, bytes
end

-- The text of a message that was handed out, for when it goes back.
local function remark(m, id, failed)
  local was, failures, expires, bytes, rest, kind = marked(m)
  if not was then
    kind = m:byte(1) == 123 and 'q' or 'r'
    rest = kind == 'q' and m:sub(2) or m
  end
  if kind == 'q' and (not was or was == '0') then
    -- kombu's own flag goes into the last "delivery_info": the user's headers come before it.
    local last, from = nil, 1
    while true do
      local b, e = rest:find('"delivery_info": {', from, true)
      if not b then break end
      last, from = e, e + 1
    end
    if last then
      local comma = rest:byte(last + 1) == 125 and '' or ', '
      rest = rest:sub(1, last) .. '"redelivered": true' .. comma .. rest:sub(last + 1)
    end
  end
  return mark(kind, id, (failures or 0) + (failed and 1 or 0), expires or 0, bytes or 0, rest)
end

-- What this call may still do of what is due. Whatever is left is due at once.
local steps_left, bytes_left = STEPS, BYTES
local function spend(bytes) steps_left, bytes_left = steps_left - 1, bytes_left - bytes end
local function is_spent() return steps_left <= 0 or bytes_left <= 0 end

-- Removes what has expired at the head of a queue, and looks when the next one does. What consumers have room for is
-- theirs, for as long as a consumer may be busy. False if there may be more of it.
local function expire(q)
  if is_taken(q) then
    schedule('t', q, now() + LATER)
    return true
  end
  local grace = wanted(q) > 0 and 30000 or 0
  local lim = limits(q)
  for step = 0, 3 do
    local list = P .. q .. STEP[step]
    while true do
      if is_spent() then
        schedule('t', q, now())
        return false
      end
      local m = call('LINDEX', list, -1)
      if not m then break end
      local id, _, expires = marked(m)
      if not id or expires == 0 then return true end
      if expires + grace > now() then
        schedule('t', q, expires + grace)
        return true
      end
      call('RPOP', list)
      counted(q, lim, -size(m))
      bury(q, 'expired', m, expires)
      spend(#m)
    end
  end
  return true
end

-- Puts the delayed messages into their queue whose time has come. False if there may be more of them.
local function arrive(q)
  local later = R .. 'later.' .. q
  local lim = limits(q)
  local block = 1
  while true do
    local due = call('ZRANGEBYSCORE', later, '-inf', now(), 'WITHSCORES', 'LIMIT', 0, block)
    if #due == 0 then break end
    if is_taken(q) then
      schedule('d', q, now() + LATER)
      return true
    end
    if is_spent() then
      schedule('d', q, now())
      return false
    end
    local returned = {}
    for i = 1, #due, 2 do
      local _, e, what, step, ttl, bytes = due[i]:find('^%d+ (%a) (%d) (%-?%d+) (%d+) ')
      local m = due[i]:sub(e + 1)
      if what == 'n' then
        put(q, lim, tonumber(step), m, tonumber(ttl), tonumber(bytes), tonumber(due[i + 1]))
      else
        returned[#returned + 1] = {id = marked(m), m = m}
      end
      call('ZREM', later, due[i])
      spend(#m)
    end
    back(q, returned)
    -- Few at first: they may be large.
    block = math.min(2 * block, 100)
  end
  local first = call('ZRANGE', later, 0, 0, 'WITHSCORES')
  if first[1] then schedule('d', q, first[2]) else forget(q) end
  return true
end

-- A queue is used now.
local function touch(q)
  local expires = call('HGET', R .. 'q.' .. q, 'exp')
  if not expires then return end
  local at = now() + expires
  tell_if_sooner(at)
  call('ZADD', R .. 'due', at, 'x' .. q)
end

-- Does what is due, for as long as one call may.
local function catch_up()
  is_catching_up = true
  while not is_spent() do
    spend(0)
    local first = call('ZRANGE', R .. 'due', 0, 0, 'WITHSCORES')
    if not first[1] or tonumber(first[2]) > now() then return end
    local what, q = first[1]:sub(1, 1), first[1]:sub(2)
    call('ZREM', R .. 'due', first[1])
    if what == 'd' then arrive(q)
    elseif what == 't' then expire(q)
    elseif call('ZCARD', R .. 'consumers.' .. q) == 0 and call('EXISTS', R .. 'q.' .. q) == 1 then
      call('SADD', R .. 'doomed', 'e' .. q)
    end
  end
end

-- Ends a consumer.
local function leave(q, holder)
  local meta, consumers = R .. 'q.' .. q, R .. 'consumers.' .. q
  call('HDEL', R .. 'wants.' .. q, holder)
  call('HDEL', R .. 'parked.' .. q, holder)
  if call('ZREM', consumers, holder) == 0 then return end
  if call('HGET', meta, 'xc') == holder then call('HDEL', meta, 'xc') end
  if call('ZCARD', consumers) == 0 then
    if call('HEXISTS', meta, 'auto') == 1 then call('SADD', R .. 'doomed', 'a' .. q) end
    touch(q)
  end
end

-- Ends a session: what it held goes back, in as many calls as it takes. True when all of it is done, or can't be done now.
local function reap(session, budget)
  write_in_any_case()
  call('ZADD', R .. 'sessions', 0, session)
  local stays, bytes = false, BYTES
  local entries = R .. 'session.' .. session
  -- From now on it isn't alive, and has no room for what goes back.
  if call('HDEL', R .. 'pushed', session) == 1 then
    for _, entry in ipairs(call('SMEMBERS', entries)) do
      local n, q = entry:match('^h(%d+) (.*)$')
      if n then call('HDEL', R .. 'wants.' .. q, session .. '.' .. n) end
    end
  end
  -- The last ones: so each goes in front of its successors.
  local function last_of(held)
    local ids, some = {}, {}
    for i, id in ipairs(call('HKEYS', held)) do ids[i] = tonumber(id) end
    table.sort(ids)
    for i = #ids, 1, -1 do
      if budget <= 0 or bytes <= 0 then break end
      local id = string.format('%d', ids[i])
      local m = call('HGET', held, id)
      budget, bytes = budget - 1, bytes - #m
      some[#some + 1] = {id = id, m = m}
    end
    return some
  end
  local function drop(held, some)
    for _, one in ipairs(some) do call('HDEL', held, one.id) end
    return call('EXISTS', held) == 0
  end
  for _, entry in ipairs(call('SMEMBERS', entries)) do
    if budget <= 0 or bytes <= 0 then return false end
    budget = budget - 1
    local what, rest = entry:sub(1, 1), entry:sub(2)
    if what == 'h' then
      local n, q = rest:match('^(%d+) (.*)$')
      local holder = session .. '.' .. n
      local held = R .. 'unacked.' .. holder .. '.' .. q
      local is_there = call('EXISTS', R .. 'q.' .. q) == 1
      if is_there and call('EXISTS', held) == 1 and is_taken(q) then
        entry, stays = nil, true
      elseif is_there then
        local some = last_of(held)
        local messages = {}
        for i, one in ipairs(some) do messages[i] = {id = one.id, m = remark(one.m, one.id, false)} end
        local moved, weight = back(q, messages)
        budget, bytes = budget - moved, bytes - weight
        if not drop(held, some) then return false end
      else
        call('DEL', held)
      end
      leave(q, holder)
      if entry then
        call('SREM', R .. 'holders.' .. q, holder)
        forget(q)
      end
    elseif what == 'w' then
      call('DEL', R .. 'window.' .. session .. '.' .. rest)
    elseif what == 'd' then
      local dying = R .. 'dying.' .. session
      local some = last_of(dying)
      for _, one in ipairs(some) do call('LPUSH', R .. 'dead', one.m) end
      died = died + #some
      if not drop(dying, some) then return false end
    else
      call('SADD', R .. 'doomed', 'o' .. rest)
    end
    if entry then call('SREM', entries, entry) end
  end
  if stays then
    call('ZADD', R .. 'sessions', now() + LATER, session)
    return true
  end
  call('DEL', entries, R .. 'handed.' .. session)
  call('ZREM', R .. 'sessions', session)
  return true
end
