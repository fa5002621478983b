-- Takes dead messages to be moved. ARGV: prefix, session, how many at most. Answers how many of
-- the dead it looked at, how many there were, then id and record of each that was taken.
local session, want = ARGV[2], tonumber(ARGV[3])
if not is_alive(session) then return redis.error_reply('SESSION .') end
catch_up()
local dead, taken = R .. 'dead', {}
local count, looked, bytes = call('LLEN', dead), 0, 0
while looked < math.min(count, STEPS) and #taken < 2 * want and bytes < BYTES do
  local m = call('LPOP', dead)
  looked, bytes = looked + 1, bytes + #m
  -- What can't be read at all is nobody's, and stays.
  local left = m:match('^%S+ %S+ (%S+) ')
  if not left or left:find(',' .. session .. ',', 1, true) then
    call('RPUSH', dead, m)
  else
    taken[#taken + 1] = string.format('%d', call('HINCRBY', R .. 'meta', 'died', 1))
    taken[#taken + 1] = m
  end
end
if #taken > 0 then
  call('HSET', R .. 'dying.' .. session, unpack(taken))
  call('SADD', R .. 'session.' .. session, 'd')
end
return {looked, count, unpack(taken)}
