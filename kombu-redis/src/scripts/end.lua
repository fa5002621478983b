-- Ends a session. ARGV: prefix, session, how many messages to give back at most. Answers whether it has ended, and queues
-- that are to go.
local done = reap(ARGV[2], tonumber(ARGV[3]))
return {done and 1 or 0, call('SMEMBERS', R .. 'doomed')}
