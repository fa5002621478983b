-- All declarations. ARGV: prefix, session, names of exchanges that may be others' alone...
-- Answers the version, exchanges, queues, bindings that are records of ours, and for each exchange its name and the
-- bindings that are kombu's rows: none where somebody else uses the key, which whoever publishes there is told.
-- SESSION: it has ended. Whoever has forgotten it may have forgotten declarations, too.
if not is_alive(ARGV[2]) then return redis.error_reply('SESSION .') end
local names, seen = {}, {}
local exchanges = call('HGETALL', R .. 'exchanges')
for i = 1, #exchanges, 2 do names[#names + 1] = exchanges[i] end
for i = 3, #ARGV do names[#names + 1] = ARGV[i] end
local rows, changed = {}, false
for _, name in ipairs(names) do
  if not seen[name] then
    seen[name] = true
    rows[#rows + 1] = name
    if holds_rows(name) then
      rows[#rows + 1] = call('SMEMBERS', P .. '_kombu.binding.' .. name)
      if not is_unchanged(name) then
        write_in_any_case()
        call('SUNIONSTORE', R .. 'loaded.' .. name, P .. '_kombu.binding.' .. name)
        changed = true
      end
    else
      rows[#rows + 1] = {}
    end
  end
end
-- Whoever has loaded before has another table.
if changed then call('HINCRBY', R .. 'meta', 'ver', 1) end
return {call('HGET', R .. 'meta', 'ver') or '0', exchanges, call('HGETALL', R .. 'queues'), call('SMEMBERS', R .. 'bindings'), rows}
