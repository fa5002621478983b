-- Removes the ready messages. ARGV: prefix, queue. Answers how many they were.
local q = ARGV[2]
arrive(q)
expire(q)
local n, list = ready(q), P .. q
call('DEL', list, list .. STEP[1], list .. STEP[2], list .. STEP[3])
if call('HEXISTS', R .. 'q.' .. q, 'bytes') == 1 then call('HSET', R .. 'q.' .. q, 'bytes', 0) end
return n
