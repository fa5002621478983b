-- What every script begins with. The first argument of each is the prefix of all keys.
--
-- A message in a list is kombu's text. Ours may begin with a marker, which kombu ignores and keeps:
--   {"_kq":"<id>:<failures>:<expires>:<bytes>", …
-- id: its position if it was handed out before, else 0; failures: how often it was counted as one; expires: when its time
-- is over in ms, or 0; bytes: the size of its body where the queue counts them, or 0.
-- What isn't an object has the whole of itself behind such a marker, which is called _kr then.
local call, P = redis.call, ARGV[1]
local R = P .. '_kombu.rs.'
local STEP = {[0] = '', '\6\0223', '\6\0226', '\6\0229'}
local CHUNK = 4000
-- What a consumer without a window wants.
local UNLIMITED = 2 ^ 40
-- What one call does at most of what may be much: the server does nothing else meanwhile. So many steps, and so many bytes,
-- if one message isn't more.
local STEPS, BYTES = 1000, 1048576

local died, time = 0, nil

local function now()
  if not time then
    local t = call('TIME')
    time = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return time
end

-- Whether the rows of an exchange are those that were loaded last: Python changes them without counting a version.
local function is_unchanged(exchange)
  local rows, loaded = P .. '_kombu.binding.' .. exchange, R .. 'loaded.' .. exchange
  local n = call('SCARD', rows)
  return n == call('SCARD', loaded) and (n == 0 or call('SINTERCARD', 2, rows, loaded) == n)
end

-- Not when it is being ended, which may take many calls.
local function is_alive(session)
  return call('HEXISTS', R .. 'pushed', session) == 1
end

-- id, failures, expires, bytes, the text after the marker, and its kind; nil without one that we can have written.
local function marked(m)
  if m:byte(3) ~= 95 then return nil end
  local _, e, kind, id, failures, expires, bytes = m:find('^{"_k([qr])":%s*"(%d+):(%d+):(%d+):(%d+)",%s*')
  if not id or #id > 16 or id:byte(-1) > 51 or #failures > 9 or #expires > 15 or #bytes > 15 then return nil end
  return id, tonumber(failures), tonumber(expires), tonumber(bytes), m:sub(e + 1), kind
end

-- How many more messages a consumer has room for, over all of its queues. `wants` is what it told.
local function room(holder, wants)
  local limit, window = wants:match('^(%d+) (%d+)$')
  local session = holder:match('^%d+')
  local n = tonumber(limit)
  if n == 0 or n >= UNLIMITED then return n end
  for _, one in ipairs(call('SMEMBERS', R .. 'window.' .. session .. '.' .. window)) do
    n = n - call('HLEN', R .. 'unacked.' .. session .. '.' .. one)
  end
  return math.max(0, n)
end

