-- Whether a table is the newest. ARGV: prefix, version, names of exchanges that may have rows of kombu's...
if (call('HGET', R .. 'meta', 'ver') or '0') ~= ARGV[2] then return 0 end
for i = 3, #ARGV do
  if not is_unchanged(ARGV[i]) then return 0 end
end
return 1
