-- Whether consumers have something to do. ARGV: prefix, queues... Answers those that have messages, or are gone.
local found = {}
for i = 2, #ARGV do
  local q = ARGV[i]
  local list = P .. q
  local messages = call('EXISTS', list, list .. STEP[1], list .. STEP[2], list .. STEP[3])
  if messages > 0 or call('EXISTS', R .. 'consumers.' .. q) == 0 then found[#found + 1] = q end
end
return found
