-- Begins to consume. ARGV: prefix, session, number of the holder, queue, 1 if it is to be the only one, how many
-- messages it may have and the number of its window, 1 if nobody declared it.
local session, n, q = ARGV[2], ARGV[3], ARGV[4]
if not is_alive(session) then return redis.error_reply('SESSION .') end
local meta, consumers, holder = R .. 'q.' .. q, R .. 'consumers.' .. q, session .. '.' .. n
write_in_any_case()
if ARGV[7] == '1' then adopt(q) end
if call('EXISTS', meta) == 0 then return redis.error_reply('NOQUEUE .') end
local count = call('ZCARD', consumers)
if call('HEXISTS', meta, 'xc') == 1 or (ARGV[5] == '1' and count > 0) then return redis.error_reply('ACCESS .') end
local turn = call('HINCRBY', meta, 'turn', 1)
call('ZADD', consumers, turn, holder)
call('HSET', R .. 'wants.' .. q, holder, ARGV[6])
local window = ARGV[6]:match('%d+$')
call('SADD', R .. 'window.' .. session .. '.' .. window, n .. '.' .. q)
call('SADD', R .. 'session.' .. session, 'h' .. n .. ' ' .. q, 'w' .. window)
call('SADD', R .. 'holders.' .. q, holder)
if ARGV[5] == '1' then call('HSET', meta, 'xc', holder) end
return count + 1
