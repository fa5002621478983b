-- Counts of a queue. ARGV: prefix, queue, 1 if nobody declared it. Answers ready, unsettled and consumers; NOQUEUE if it isn't there.
local q = ARGV[2]
if ARGV[3] ~= '1' and call('EXISTS', R .. 'q.' .. q) == 0 then return redis.error_reply('NOQUEUE .') end
touch(q)
arrive(q)
expire(q)
local unsettled = 0
for _, holder in ipairs(call('SMEMBERS', R .. 'holders.' .. q)) do
  unsettled = unsettled + call('HLEN', R .. 'unacked.' .. holder .. '.' .. q)
end
return {ready(q), unsettled, call('ZCARD', R .. 'consumers.' .. q)}
