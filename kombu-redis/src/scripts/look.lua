-- Whether consumers have something to do. ARGV: prefix, queues... Answers ms until the next thing is due, or
-- -1, and those queues that have messages, or are gone.
local due = call('ZRANGE', R .. 'due', 0, 0, 'WITHSCORES')[2]
local found = {due and math.max(0, tonumber(due) - now()) or -1}
for i = 2, #ARGV do
  local q = ARGV[i]
  local list = P .. q
  local messages = call('EXISTS', list, list .. STEP[1], list .. STEP[2], list .. STEP[3])
  if messages > 0 or call('EXISTS', R .. 'consumers.' .. q) == 0 then found[#found + 1] = q end
end
return found
