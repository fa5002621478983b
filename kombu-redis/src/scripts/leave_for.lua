-- Stores an answer where a queue may be declared without a trace, for a day at most if nobody has stored one there before.
-- ARGV: prefix, session, queue, text. Answers 1; or 0, and does nothing, if the queue has left a trace. SESSION: it has ended.
local q = ARGV[3]
if not is_alive(ARGV[2]) then return redis.error_reply('SESSION .') end
local decl = call('HGET', R .. 'q.' .. q, 'decl')
if decl and decl ~= '' then return 0 end
-- Celery binds each queue to an exchange of its own name.
if holds_rows(q) and call('SISMEMBER', P .. '_kombu.binding.' .. q, q .. '\6\22\6\22' .. q) == 1 then return 0 end
local n = call('LPUSH', P .. q, ARGV[4])
if n == 1 and not decl then call('PEXPIRE', P .. q, 86400000) end
return 1
