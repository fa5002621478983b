-- Whether Python has made a queue or an exchange. ARGV: prefix, `queue` or `exchange`, name.
-- A list is a queue from then on, also one where an answer was left for a day.
-- An empty queue of kombu's has no list. But Celery binds each to an exchange of its own name.
local name = ARGV[3]
if ARGV[2] == 'exchange' then return call('EXISTS', P .. '_kombu.binding.' .. name) end
for step = 0, 3 do
  if call('EXISTS', P .. name .. STEP[step]) == 1 then
    keep(name)
    return 1
  end
end
return call('SISMEMBER', P .. '_kombu.binding.' .. name, name .. '\6\22\6\22' .. name)
