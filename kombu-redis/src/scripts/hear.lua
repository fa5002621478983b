-- Whether what was heard on a channel is for this session to store. ARGV: prefix, session, text, ms that it can be heard.
-- Answers 1 for the first session that asks, and 0 for the others. SESSION: it has ended.
if not is_alive(ARGV[2]) then return redis.error_reply('SESSION .') end
local first = call('SET', R .. 'heard.' .. redis.sha1hex(ARGV[3]), ARGV[2], 'NX', 'PX', ARGV[4])
return first and 1 or 0
