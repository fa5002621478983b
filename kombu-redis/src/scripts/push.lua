-- Stores messages. ARGV: prefix, session, how many calls of this script the session made before, version, number of exchanges that they come by, their names, number of queues, their
-- names, then the messages: number of targets, each target's queue and list, delay and time to live in ms or -1, size of
-- the body, channel of a fanout or '', text.
-- Answers, for each message, 1, or 2 if the channel may not be spoken at, or 0 if a queue refused it; and last how many messages died. Or nothing was done: STALE, for
-- the declarations have changed; EARLY, for a call before this one wasn't done. SESSION: the server doesn't know it.
local version = call('HGET', R .. 'meta', 'ver')
-- The server has forgotten everything.
if not version then return redis.error_reply('SESSION .') end
local before = call('HGET', R .. 'pushed', ARGV[2])
if not before then return redis.error_reply('SESSION .') end
if before ~= ARGV[3] then return redis.error_reply('EARLY .') end
if version ~= ARGV[4] then return redis.error_reply('STALE .') end
local a = 6
for _ = 1, tonumber(ARGV[5]) do
  if not is_unchanged(ARGV[a]) then return redis.error_reply('STALE .') end
  a = a + 1
end
local names, limit = {}, {}
local n = tonumber(ARGV[a])
for i = 1, n do
  local q = ARGV[a + i]
  names[i] = q
  limit[i] = call('HEXISTS', R .. 'q.' .. q, 'lim') == 1 and common().limits(q) or false
  -- A key of somebody else's fails here, before anything is written.
  for step = 0, 3 do call('LLEN', P .. q .. STEP[step]) end
end
a = a + n + 1
-- What goes to a queue without limits is pushed together.
local waiting, lists = {}, {}
local function flush()
  for _, list in ipairs(lists) do
    local all = waiting[list]
    for i = 1, #all, CHUNK do call('LPUSH', list, unpack(all, i, math.min(i + CHUNK - 1, #all))) end
  end
  waiting, lists = {}, {}
end
local answers, told = {}, {}
while a <= #ARGV do
  local targets = a
  local nt = tonumber(ARGV[a])
  a = a + 1 + 2 * nt
  local delay, ttl, bytes, channel, m = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), ARGV[a + 3], ARGV[a + 4]
  a = a + 5
  local answer = 1
  for t = targets + 1, targets + 2 * nt, 2 do
    local i, step = tonumber(ARGV[t]), tonumber(ARGV[t + 1])
    local q, lim = names[i], limit[i]
    if delay >= 0 then
      common().put_later(q, 'n', step, ttl, bytes, m, now() + delay)
    elseif not lim and ttl < 0 then
      local list = P .. q .. STEP[step]
      local all = waiting[list]
      if all then all[#all + 1] = m else waiting[list] = {m}; lists[#lists + 1] = list end
    else
      flush()
      if not common().put(q, lim, step, m, ttl, bytes) then answer = 0 end
    end
  end
  answers[#answers + 1] = answer
  if channel ~= '' then told[#told + 1] = {channel, m, #answers} end
end
flush()
call('HSET', R .. 'pushed', ARGV[2], string.format('%d', before + 1))
-- When they are stored: a server without memory refuses that, and not this. The marker tells ours from Python's.
for _, one in ipairs(told) do
  local said = redis.pcall('PUBLISH', one[1], '{"_kq":"0:0:0:0",' .. one[2]:sub(2))
  if type(said) == 'table' and said.err and answers[one[3]] == 1 then answers[one[3]] = 2 end
end
answers[#answers + 1] = died
return answers
