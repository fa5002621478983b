-- Counts of a queue. ARGV: prefix, session, queue, 1 if nobody declared it. Answers ready, unsettled and consumers; NOQUEUE
-- if it isn't there, SESSION if the session has ended; AGAIN if so much is due that it isn't all done.
local q = ARGV[3]
if not is_alive(ARGV[2]) then return redis.error_reply('SESSION .') end
if ARGV[4] ~= '1' and call('EXISTS', R .. 'q.' .. q) == 0 then return redis.error_reply('NOQUEUE .') end
write_in_any_case()
touch(q)
if not arrive(q) or not expire(q) then return 'AGAIN' end
local unsettled = 0
for _, holder in ipairs(call('SMEMBERS', R .. 'holders.' .. q)) do
  unsettled = unsettled + call('HLEN', R .. 'unacked.' .. holder .. '.' .. q)
end
return {ready(q), unsettled, call('ZCARD', R .. 'consumers.' .. q)}
