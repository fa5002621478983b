-- Begins a session. ARGV: prefix, ms until it is overdue. Answers its number, or an error if the layout isn't ours.
local meta = R .. 'meta'
local layout = call('HGET', meta, 'layout')
if layout and layout ~= '1' then return redis.error_reply('LAYOUT ' .. layout) end
write_in_any_case()
local t = call('TIME')
-- By the clock, so that numbers don't come again when a server has lost them.
local stamp = t[1] * 1000000 + t[2]
if not layout then call('HSET', meta, 'layout', 1, 'ver', string.format('%d', stamp)) end
while call('ZSCORE', R .. 'sessions', string.format('%d', stamp)) do stamp = stamp + 1 end
local session = string.format('%d', stamp)
call('ZADD', R .. 'sessions', now() + tonumber(ARGV[2]), session)
call('HSET', R .. 'pushed', session, 0)
return session
