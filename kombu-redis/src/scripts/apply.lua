-- Changes declarations. ARGV: prefix, version, then changes. Answers the new version and how many messages went with
-- queues; STALE if the version is another one; an error if a queue can't be deleted.
local meta = R .. 'meta'
local ver = call('HGET', meta, 'ver') or '0'
if ver ~= ARGV[2] then return 'STALE' end
local a, messages = 3, 0

-- How many arguments a change has.
local SIZE = {X = 2, x = 1, Q = 4, q = 2, B = 2, U = 2, b = 1, u = 1}

-- First all that can be refused.
while a <= #ARGV do
  local what = ARGV[a]
  -- Keys of somebody else's fail here, before anything is written.
  if what == 'x' or what == 'B' or what == 'U' then
    call('SCARD', P .. '_kombu.binding.' .. ARGV[a + 1])
    call('SCARD', P .. '_kombu.binding_permanent.' .. ARGV[a + 1])
  elseif what == 'Q' then
    ready(ARGV[a + 1])
  elseif what == 'q' then
    local q, condition = ARGV[a + 1], ARGV[a + 2]
    local doom = condition:match('%u')
    if doom and call('SISMEMBER', R .. 'doomed', doom:lower() .. q) == 0 then return redis.error_reply('INUSE 0') end
    local consumers = call('ZCARD', R .. 'consumers.' .. q)
    if condition:find('u', 1, true) and consumers > 0 then return redis.error_reply('INUSE ' .. consumers) end
    local n = ready(q)
    if condition:find('m', 1, true) and n > 0 then return redis.error_reply('NOTEMPTY ' .. n) end
    if condition:find('e', 1, true) then
      local at = call('ZSCORE', R .. 'due', 'x' .. q)
      if at and tonumber(at) > now() then return redis.error_reply('INUSE 0') end
    end
    messages = messages + n
  end
  a = a + 1 + SIZE[what]
end

write_in_any_case()

local function delete(q)
  local list = P .. q
  call('DEL', list, list .. STEP[1], list .. STEP[2], list .. STEP[3], R .. 'later.' .. q)
  for _, holder in ipairs(call('ZRANGE', R .. 'consumers.' .. q, 0, -1)) do
    call('DEL', R .. 'unacked.' .. holder .. '.' .. q)
  end
  for _, holder in ipairs(call('SMEMBERS', R .. 'holders.' .. q)) do
    call('DEL', R .. 'unacked.' .. holder .. '.' .. q)
    local session, n = holder:match('^(%d+)%.(%d+)$')
    call('SREM', R .. 'session.' .. session, 'h' .. n .. ' ' .. q)
  end
  local owner = call('HGET', R .. 'q.' .. q, 'owner')
  if owner then call('SREM', R .. 'session.' .. owner, 'x' .. q) end
  call('DEL', R .. 'consumers.' .. q, R .. 'holders.' .. q, R .. 'wants.' .. q, R .. 'parked.' .. q, R .. 'q.' .. q)
  call('ZREM', R .. 'due', 'd' .. q, 't' .. q, 'x' .. q)
  call('HDEL', R .. 'queues', q)
  call('SREM', R .. 'doomed', 'o' .. q, 'a' .. q, 'e' .. q)
end

a = 3
while a <= #ARGV do
  local what, one, two = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  if what == 'X' then call('HSET', R .. 'exchanges', one, two)
  elseif what == 'x' then
    call('HDEL', R .. 'exchanges', one)
    call('DEL', P .. '_kombu.binding.' .. one, P .. '_kombu.binding_permanent.' .. one, R .. 'loaded.' .. one)
  elseif what == 'Q' then
    local record, fields = ARGV[a + 3], ARGV[a + 4]
    local q = R .. 'q.' .. one
    local t = call('TIME')
    -- Positions begin where no earlier queue of the name has come to.
    local seq = math.floor((t[1] * 1000000 + t[2]) / 16)
    call('HSET', R .. 'queues', one, record)
    call('HSET', q, 'decl', two, 'seq', string.format('%d', seq))
    for name, value in fields:gmatch('(%a+)=([^;]*);') do
      call('HSET', q, name, value)
      if name == 'owner' then call('SADD', R .. 'session.' .. value, 'x' .. one) end
    end
    keep(one)
    touch(one)
  elseif what == 'q' then delete(one)
  elseif what == 'B' then
    call('SADD', P .. '_kombu.binding.' .. one, two)
    call('SADD', P .. '_kombu.binding_permanent.' .. one, two)
    call('SADD', R .. 'loaded.' .. one, two)
  elseif what == 'U' then
    call('SREM', P .. '_kombu.binding.' .. one, two)
    call('SREM', P .. '_kombu.binding_permanent.' .. one, two)
    call('SREM', R .. 'loaded.' .. one, two)
  elseif what == 'b' then call('SADD', R .. 'bindings', one)
  else call('SREM', R .. 'bindings', one) end
  a = a + 1 + SIZE[what]
end
return {string.format('%d', call('HINCRBY', meta, 'ver', 1)), messages}
