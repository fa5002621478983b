-- Whether a table is the newest. ARGV: prefix, session, version, names of exchanges that may have rows of kombu's...
-- SESSION: the session has ended.
if not is_alive(ARGV[2]) then return redis.error_reply('SESSION .') end
if (call('HGET', R .. 'meta', 'ver') or '0') ~= ARGV[3] then return 0 end
for i = 4, #ARGV do
  -- A key of somebody else's has no rows.
  if holds_rows(ARGV[i]) and not is_unchanged(ARGV[i]) then return 0 end
end
return 1
