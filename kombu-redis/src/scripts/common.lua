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

-- Makes a record of a queue that others have, so that it can be consumed from.
local function adopt(q)
  -- What is delayed may have been counted there before.
  if call('HSETNX', R .. 'q.' .. q, 'decl', '') == 1 then
    call('HSET', R .. 'q.' .. q, 'seq', string.format('%d', now() * 60))
  end
  -- An answer may have been left there for a day.
  call('PERSIST', P .. q)
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

-- Something has to be done about a queue at a time: d: a delayed message comes, t: the head expires, x: it is unused
-- for too long.
local function schedule(what, q, at)
  call('ZADD', R .. 'due', 'LT', at, what .. q)
end

-- How many messages consumers have room for: those that come have their takers already.
local function wanted(q)
  local n, all = 0, call('HGETALL', R .. 'wants.' .. q)
  for i = 1, #all, 2 do
    n = n + math.max(0, all[i + 1] - call('HLEN', R .. 'unacked.' .. all[i] .. '.' .. q))
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

-- Puts a message back to where it was, unless its time is over.
local function back(q, id, m)
  local _, _, expires = marked(m)
  if expires > 0 and expires <= now() then
    bury(q, 'expired', m, expires)
    return
  end
  local list, me, skip = P .. q .. STEP[tonumber(id:sub(-1))], tonumber(id), 0
  while true do
    local other = call('LINDEX', list, -1 - skip)
    local o = other and marked(other)
    if o and o ~= '0' and tonumber(o) < me then skip = skip + 1 else break end
  end
  local front = skip > 0 and call('RPOP', list, skip) or {}
  call('RPUSH', list, m)
  for i = #front, 1, -1 do call('RPUSH', list, front[i]) end
  if expires > 0 then schedule('t', q, expires) end
  local lim = limits(q)
  counted(q, lim, size(m))
  drop_heads(q, lim)
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

-- Removes what has expired at the head of a queue, and looks when the next one does. What consumers have room for is
-- theirs, for as long as a consumer may be busy.
local function expire(q)
  if is_taken(q) then
    schedule('t', q, now() + LATER)
    return
  end
  local grace = wanted(q) > 0 and 30000 or 0
  for step = 0, 3 do
    local list = P .. q .. STEP[step]
    while true do
      local m = call('LINDEX', list, -1)
      if not m then break end
      local id, _, expires = marked(m)
      if not id or expires == 0 then return end
      if expires + grace > now() then
        schedule('t', q, expires + grace)
        return
      end
      call('RPOP', list)
      counted(q, limits(q), -size(m))
      bury(q, 'expired', m, expires)
    end
  end
end

-- Puts the delayed messages into their queue whose time has come.
local function arrive(q)
  local later = R .. 'later.' .. q
  local lim = limits(q)
  while true do
    local due = call('ZRANGEBYSCORE', later, '-inf', now(), 'WITHSCORES', 'LIMIT', 0, 100)
    if #due == 0 then break end
    if is_taken(q) then
      schedule('d', q, now() + LATER)
      return
    end
    for i = 1, #due, 2 do
      local _, e, what, step, ttl, bytes = due[i]:find('^%d+ (%a) (%d) (%-?%d+) (%d+) ')
      local m = due[i]:sub(e + 1)
      if what == 'n' then
        put(q, lim, tonumber(step), m, tonumber(ttl), tonumber(bytes), tonumber(due[i + 1]))
      else
        back(q, (marked(m)), m)
      end
      call('ZREM', later, due[i])
    end
  end
  local first = call('ZRANGE', later, 0, 0, 'WITHSCORES')
  if first[1] then schedule('d', q, first[2]) else forget(q) end
end

-- A queue is used now.
local function touch(q)
  local expires = call('HGET', R .. 'q.' .. q, 'exp')
  if expires then call('ZADD', R .. 'due', now() + expires, 'x' .. q) end
end

-- Does what is due.
local function catch_up()
  for _ = 1, 1000 do
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
  if call('ZREM', consumers, holder) == 0 then return end
  if call('HGET', meta, 'xc') == holder then call('HDEL', meta, 'xc') end
  if call('ZCARD', consumers) == 0 then
    if call('HEXISTS', meta, 'auto') == 1 then call('SADD', R .. 'doomed', 'a' .. q) end
    touch(q)
  end
end

-- Ends a session: what it held goes back. True when all of it is done, or can't be done now.
local function reap(session, budget)
  write_in_any_case()
  call('ZADD', R .. 'sessions', 0, session)
  call('HDEL', R .. 'pushed', session)
  local stays = false
  local entries = R .. 'session.' .. session
  for _, entry in ipairs(call('SMEMBERS', entries)) do
    local what, rest = entry:sub(1, 1), entry:sub(2)
    if what == 'h' then
      local n, q = rest:match('^(%d+) (.*)$')
      local holder = session .. '.' .. n
      local held = R .. 'unacked.' .. holder .. '.' .. q
      local ids = call('HKEYS', held)
      table.sort(ids, function(a, b) return tonumber(a) > tonumber(b) end)
      local is_there = call('EXISTS', R .. 'q.' .. q) == 1
      if is_there and #ids > 0 and is_taken(q) then
        entry, stays = nil, true
      else
        for _, id in ipairs(ids) do
          if budget <= 0 then return false end
          budget = budget - 1
          if is_there then back(q, id, remark(call('HGET', held, id), id, false)) end
          call('HDEL', held, id)
        end
      end
      leave(q, holder)
      if entry and call('EXISTS', held) == 0 then
        call('SREM', R .. 'holders.' .. q, holder)
        forget(q)
      end
    elseif what == 'd' then
      local dying = R .. 'dying.' .. session
      local ids = call('HKEYS', dying)
      table.sort(ids, function(a, b) return tonumber(a) > tonumber(b) end)
      for _, id in ipairs(ids) do
        call('LPUSH', R .. 'dead', call('HGET', dying, id))
        call('HDEL', dying, id)
        died = died + 1
      end
    else
      call('SADD', R .. 'doomed', 'o' .. rest)
    end
    if entry then call('SREM', entries, entry) end
  end
  if stays then
    call('ZADD', R .. 'sessions', now() + LATER, session)
    return true
  end
  call('DEL', entries)
  call('ZREM', R .. 'sessions', session)
  return true
end
