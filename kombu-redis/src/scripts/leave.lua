-- Ends a consumer. ARGV: prefix, session, number of the holder, queue, number of its window. Answers how many messages were
-- handed over to the window.
local session, n, q = ARGV[2], ARGV[3], ARGV[4]
local holder = session .. '.' .. n
local handed = call('HGET', R .. 'handed.' .. session, ARGV[5]) or '0'
leave(q, holder)
local window = R .. 'window.' .. session .. '.' .. ARGV[5]
call('SREM', window, n .. '.' .. q)
if call('EXISTS', window) == 0 then
  call('SREM', R .. 'session.' .. session, 'w' .. ARGV[5])
  call('HDEL', R .. 'handed.' .. session, ARGV[5])
end
if call('EXISTS', R .. 'unacked.' .. holder .. '.' .. q) == 0 then
  call('SREM', R .. 'session.' .. session, 'h' .. n .. ' ' .. q)
  call('SREM', R .. 'holders.' .. q, holder)
  forget(q)
end
return handed
