-- Stores a message where a queue may be declared without a trace, for a day at most. ARGV: prefix, queue, text.
local list = P .. ARGV[2]
local n = call('LPUSH', list, ARGV[3])
if n == 1 then call('PEXPIRE', list, 86400000) end
return n
