-- Stores what was heard at a channel, if no other session has. ARGV: prefix, session, ms that others may hear it later, version,
-- number of exchanges that it came by, their names, time to live in ms or -1, size of the body, number of targets, each
-- target's queue and list, the text as it is stored, and as it was heard.
-- Answers whether it was stored, and how many messages died. Or nothing was done: STALE, for the declarations have changed.
-- SESSION: it has ended.
if not is_alive(ARGV[2]) then return redis.error_reply('SESSION .') end
if (call('HGET', R .. 'meta', 'ver') or '0') ~= ARGV[4] then return redis.error_reply('STALE .') end
local a = 6
for _ = 1, tonumber(ARGV[5]) do
  if not is_unchanged(ARGV[a]) then return redis.error_reply('STALE .') end
  a = a + 1
end
local ttl, bytes, nt = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
local targets = a + 3
local text = targets + 2 * nt
for t = targets, text - 1, 2 do
  -- A key of somebody else's fails here, before anything is written.
  for step = 0, 3 do call('LLEN', P .. ARGV[t] .. STEP[step]) end
end
if not call('SET', R .. 'heard.' .. redis.sha1hex(ARGV[text + 1]), ARGV[2], 'NX', 'PX', ARGV[3]) then return {0, 0} end
for t = targets, text - 1, 2 do
  put(ARGV[t], limits(ARGV[t]), tonumber(ARGV[t + 1]), ARGV[text], ttl, bytes)
end
return {1, died}
