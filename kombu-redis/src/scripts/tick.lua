-- Says that a session lives, and does what is due. ARGV: prefix, session, ms until it is overdue, how many messages of dead
-- sessions to give back at most, and the sessions that it has seen overdue long enough ago: number and since when, each.
-- Answers ms until the next thing is due, how many dead messages wait, queues that are to go, and sessions that are overdue,
-- likewise: after a pause of the server all are, and those that live say so before the second look. LOST: it was reaped.
local session = ARGV[2]
if not is_alive(session) then return 'LOST' end
write_in_any_case()
call('ZADD', R .. 'sessions', now() + tonumber(ARGV[3]), session)
local seen, overdue, wait, dead = {}, {}, 60000, nil
for i = 5, #ARGV, 2 do seen[ARGV[i]] = ARGV[i + 1] end
local found = call('ZRANGEBYSCORE', R .. 'sessions', '-inf', now(), 'WITHSCORES', 'LIMIT', 0, 100)
for i = 1, #found, 2 do
  local one, since = found[i], found[i + 1]
  -- Or somebody has begun to end it.
  if seen[one] == since or since == '0' then dead = dead or one end
  overdue[#overdue + 1] = one
  overdue[#overdue + 1] = since
end
if dead then
  reap(dead, tonumber(ARGV[4]))
  wait = 0
end
local first = call('ZRANGEBYSCORE', R .. 'sessions', string.format('(%d', now()), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[1] then wait = math.min(wait, tonumber(first[2]) - now()) end
catch_up()
local due = call('ZRANGE', R .. 'due', 0, 0, 'WITHSCORES')
if due[1] then wait = math.min(wait, math.max(0, tonumber(due[2]) - now())) end
return {wait, call('LLEN', R .. 'dead'), call('SMEMBERS', R .. 'doomed'), overdue}
