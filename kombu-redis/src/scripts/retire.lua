-- Has a session's consumers leave, and its own queues go, before it ends: nobody but itself may be there to delete them then.
-- ARGV: prefix, session. Answers the queues that are to go because of it. SESSION: it has ended.
local session = ARGV[2]
if not is_alive(session) then return redis.error_reply('SESSION .') end
write_in_any_case()
local doomed = {}
for _, entry in ipairs(call('SMEMBERS', R .. 'session.' .. session)) do
  local what, rest = entry:sub(1, 1), entry:sub(2)
  if what == 'h' then
    local n, q = rest:match('^(%d+) (.*)$')
    leave(q, session .. '.' .. n)
    if call('SISMEMBER', R .. 'doomed', 'a' .. q) == 1 then doomed[#doomed + 1] = 'a' .. q end
  elseif what == 'x' then
    call('SADD', R .. 'doomed', 'o' .. rest)
    doomed[#doomed + 1] = 'o' .. rest
  end
end
return doomed
