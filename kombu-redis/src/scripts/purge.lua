-- Removes the ready messages. ARGV: prefix, session, queue. Answers how many they were; SESSION if the session has ended;
-- AGAIN if so much is due that it isn't all done.
local q = ARGV[3]
if not is_alive(ARGV[2]) then return redis.error_reply('SESSION .') end
write_in_any_case()
if not arrive(q) or not expire(q) then return 'AGAIN' end
local n, list = ready(q), P .. q
call('DEL', list, list .. STEP[1], list .. STEP[2], list .. STEP[3])
if call('HEXISTS', R .. 'q.' .. q, 'bytes') == 1 then call('HSET', R .. 'q.' .. q, 'bytes', 0) end
return n
