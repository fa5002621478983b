-- Whether a table is the newest. ARGV: prefix, version, then exchange and number of rows, over and over.
if (call('HGET', R .. 'meta', 'ver') or '0') ~= ARGV[2] then return 0 end
for i = 3, #ARGV, 2 do
  if call('SCARD', P .. '_kombu.binding.' .. ARGV[i]) ~= tonumber(ARGV[i + 1]) then return 0 end
end
return 1
