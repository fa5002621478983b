-- Ends a consumer. ARGV: prefix, session, number of the holder, queue, number of its window. Answers whether the queue may have to go.
local session, n, q = ARGV[2], ARGV[3], ARGV[4]
local holder = session .. '.' .. n
leave(q, holder)
local window = R .. 'window.' .. session .. '.' .. ARGV[5]
call('SREM', window, n .. '.' .. q)
if call('EXISTS', window) == 0 then call('SREM', R .. 'session.' .. session, 'w' .. ARGV[5]) end
if call('EXISTS', R .. 'unacked.' .. holder .. '.' .. q) == 0 then
  call('SREM', R .. 'session.' .. session, 'h' .. n .. ' ' .. q)
  call('SREM', R .. 'holders.' .. q, holder)
  forget(q)
end
return call('SCARD', R .. 'doomed')
