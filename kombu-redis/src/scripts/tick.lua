-- Says that a session lives, and does what is due. ARGV: prefix, session, lease in ms, how many messages of dead
-- sessions to give back at most.
-- Answers ms until the next thing is due, how many dead messages wait, and queues that are to go. LOST: it was reaped.
local session = ARGV[2]
if not is_alive(session) then return 'LOST' end
write_in_any_case()
call('ZADD', R .. 'sessions', 'XX', now() + tonumber(ARGV[3]), session)
local first = call('ZRANGE', R .. 'sessions', 0, 0, 'WITHSCORES')
local wait = 60000
if first[1] and tonumber(first[2]) <= now() then
  reap(first[1], tonumber(ARGV[4]))
  wait = 0
elseif first[1] then
  wait = tonumber(first[2]) - now()
end
catch_up()
local due = call('ZRANGE', R .. 'due', 0, 0, 'WITHSCORES')
if due[1] then wait = math.min(wait, math.max(0, tonumber(due[2]) - now())) end
return {wait, call('LLEN', R .. 'dead'), call('SMEMBERS', R .. 'doomed')}
