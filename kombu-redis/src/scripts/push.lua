-- Stores messages. ARGV: prefix, session, how many calls of this script the session made before, version, number of
-- exchanges that they come by, their names, number of queues, their names, then runs of messages, each of them either
--   count (at most CHUNK), queue, list, texts    to a queue without limits, with no more to say of them
--   0, number of targets, each target's queue and list, delay and time to live in ms or -1, size of the body, channel of a
--     fanout or '', text                         any one
-- Answers how many messages died, and, of those that came by themselves, counted from 1, which ones a queue refused and, as
-- negative numbers, which ones couldn't be said at their channel. Or nothing was done: STALE, for the declarations have changed;
-- EARLY, for a call before this one wasn't done. SESSION: the server doesn't know it.

-- Stores messages at the end of a list without limits.
local function store(q, step, all, first, last)
  first = first + hand_over(q, step, all, first, last)
  for i = first, last, CHUNK do call('LPUSH', P .. q .. STEP[step], unpack(all, i, math.min(i + CHUNK - 1, last))) end
end

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
local queues = a
a = a + 1 + tonumber(ARGV[a])
-- Stores the texts of a run that goes to one list.
local function store_run(run, last)
  store(ARGV[queues + tonumber(ARGV[run + 1])], tonumber(ARGV[run + 2]), ARGV, run + 3, last)
end
local count = tonumber(ARGV[a])
if count > 0 and a + 2 + count == #ARGV then
  -- The only run, and so the first write: it fails by itself at a key of somebody else's.
  store_run(a, #ARGV)
  call('HINCRBY', R .. 'pushed', ARGV[2], 1)
  return {0}
end
local limit = {}
for i = 1, tonumber(ARGV[queues]) do
  local q = ARGV[queues + i]
  limit[i] = call('HEXISTS', R .. 'q.' .. q, 'lim') == 1 and common().limits(q) or false
  -- A key of somebody else's fails here, before anything is written.
  for step = 0, 3 do call('LLEN', P .. q .. STEP[step]) end
end
-- What goes to a queue without limits is pushed together.
local waiting, lists = {}, {}
local function flush()
  for _, all in ipairs(lists) do store(all.q, all.step, all, 1, #all) end
  waiting, lists = {}, {}
end
local marks, told, alone = {}, {}, 0
while a <= #ARGV do
  count = tonumber(ARGV[a])
  if count > 0 then
    flush()
    store_run(a, a + 2 + count)
    a = a + 3 + count
  else
    alone = alone + 1
    local targets = a + 1
    local nt = tonumber(ARGV[targets])
    a = targets + 1 + 2 * nt
    local delay, ttl, bytes, channel, m = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), ARGV[a + 3], ARGV[a + 4]
    a = a + 5
    local is_refused = false
    for t = targets + 1, targets + 2 * nt, 2 do
      local i, step = tonumber(ARGV[t]), tonumber(ARGV[t + 1])
      local q, lim = ARGV[queues + i], limit[i]
      if delay >= 0 then
        common().put_later(q, 'n', step, ttl, bytes, m, now() + delay)
      elseif not lim and ttl < 0 then
        local list = q .. STEP[step]
        local all = waiting[list]
        if not all then
          all = {q = q, step = step}
          waiting[list], lists[#lists + 1] = all, all
        end
        all[#all + 1] = m
      else
        flush()
        if not common().put(q, lim, step, m, ttl, bytes) then is_refused = true end
      end
    end
    if is_refused then marks[#marks + 1] = alone end
    if channel ~= '' then told[#told + 1] = {channel, m, alone} end
  end
end
flush()
call('HINCRBY', R .. 'pushed', ARGV[2], 1)
-- When they are stored: a server without memory refuses that, and not this. The marker tells ours from Python's.
for _, one in ipairs(told) do
  local said = redis.pcall('PUBLISH', one[1], '{"_kq":"0:0:0:0",' .. one[2]:sub(2))
  if type(said) == 'table' and said.err then marks[#marks + 1] = -one[3] end
end
return {died, unpack(marks)}
