-- Whether a table is the newest. ARGV: prefix, session, version, then exchange and number of rows, over and over.
-- SESSION: the session has ended.
if not is_alive(ARGV[2]) then return redis.error_reply('SESSION .') end
if (call('HGET', R .. 'meta', 'ver') or '0') ~= ARGV[3] then return 0 end
for i = 4, #ARGV, 2 do
  local rows = redis.pcall('SCARD', P .. '_kombu.binding.' .. ARGV[i])
  -- A key of somebody else's has none.
  if type(rows) ~= 'number' then rows = 0 end
  if rows ~= tonumber(ARGV[i + 1]) then return 0 end
end
return 1
