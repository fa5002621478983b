-- Takes messages. ARGV: prefix, session, number of the holder, queue, how many at most, and then `once`, or `other` if nobody
-- declared the queue; of a consumer the number of its window, how many messages that were handed over to that it has, and the
-- database if it may be handed what comes later, else nothing, and 1 if what it gets isn't held.
-- Answers how many messages died, 1 if it stopped before there were no more of them, how many were handed over to the window
-- before, then id and text of each that was taken.
local session, n, q, want = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
if not is_alive(session) then return redis.error_reply('SESSION .') end
local once = ARGV[6] == 'once' or ARGV[6] == 'other'
if ARGV[6] == 'other' then
  common().write_in_any_case()
  common().adopt(q)
end
local meta, holder = R .. 'q.' .. q, session .. '.' .. n
local f = call('HMGET', meta, 'decl', 'seq', 'sac', 'lim')
if not f[1] then return redis.error_reply('NOQUEUE .') end
if once then
  common().write_in_any_case()
  common().touch(q)
elseif not call('ZSCORE', R .. 'consumers.' .. q, holder) then
  -- Gone with the queue, which is another one now.
  return redis.error_reply('NOQUEUE .')
elseif f[3] and call('ZRANGE', R .. 'consumers.' .. q, 0, 0)[1] ~= holder then
  return {0, 0, 0}
end
local handed, asked = 0, want
if not once then
  handed = tonumber(call('HGET', R .. 'handed.' .. session, ARGV[6]) or '0')
  -- What is on its way takes room, too.
  want = math.max(0, want - math.max(0, handed - tonumber(ARGV[7])))
end
local held = R .. 'unacked.' .. holder .. '.' .. q
-- What came since the last look, and there was room for, is its own, whatever its time.
local promised = once and 0
local lim = f[4] and common().limits(q)
local seq0 = tonumber(f[2])
local seq, taken, got, seen, bytes = seq0, {}, 0, {}, 0
-- How many were looked at, their bytes, the largest, and whether that was enough for one call.
local looked, weight, largest, stopped = 0, 0, 1, false
for step = 0, 3 do
  local list = P .. q .. STEP[step]
  while got < want and not stopped do
    -- Their size shows only when they are here: a few at first.
    local fitting = math.max(1, math.floor((BYTES - weight) / largest))
    local all = redis.pcall('RPOP', list, math.min(want - got, looked + 1, 32, fitting))
    if not all then break end
    if all.err then
      -- A key of somebody else's. What was taken before it comes first.
      if #taken == 0 then
        if once then common().forget(q) end
        return all
      end
      break
    end
    for i = 1, #all do
      local m = all[i]
      if looked > 0 and weight + #m > BYTES then
        stopped = true
        for k = #all, i, -1 do call('RPUSH', list, all[k]) end
        break
      end
      looked, weight, largest = looked + 1, weight + #m, math.max(largest, #m)
      local id, _, expires = nil, nil, 0
      if m:byte(3) == 95 then id, _, expires = marked(m) end
      if lim and lim.b >= 0 then bytes = bytes + common().size(m) end
      local is_over = id and expires > 0 and expires <= now()
      if is_over and not promised then
        promised = room(holder, call('HGET', R .. 'wants.' .. q, holder))
      end
      if is_over and got >= promised then
        common().bury(q, 'expired', m, expires)
      else
        -- A copy that Python made of it may be there, too; and a number that somebody made up may be the next message's.
        -- One that begins with 0 is none that was given here.
        if id and (id:byte(1) == 48 or tonumber(id) > seq0 * 10 + 9 or seen[id] or call('HEXISTS', held, id) == 1) then id = nil end
        if id then seen[id] = true else
          seq = seq + 1
          id = string.format('%d%d', seq, step)
        end
        taken[#taken + 1] = id
        taken[#taken + 1] = m
        got = got + 1
      end
    end
    if looked >= STEPS or weight >= BYTES then stopped = true end
  end
end
if got > 0 then
  if seq ~= seq0 then call('HSET', meta, 'seq', string.format('%d', seq)) end
  if ARGV[9] ~= '1' then
    for i = 1, #taken, CHUNK do call('HSET', held, unpack(taken, i, math.min(i + CHUNK - 1, #taken))) end
  end
  if once then
    call('SADD', R .. 'session.' .. session, 'h' .. n .. ' ' .. q)
    call('SADD', R .. 'holders.' .. q, holder)
  end
end
if bytes > 0 then common().counted(q, lim, -bytes) end
if got > 0 and (got == want or stopped) then
  for step = 0, 3 do
    local m = call('LINDEX', P .. q .. STEP[step], -1)
    if m then
      if m:byte(3) == 95 then common().look_at_head(q) end
      break
    end
  end
end
if once and got == 0 then common().forget(q) end
if got == want and want < asked then stopped = true end
-- Whoever publishes next hands it over, up to so many bytes: beyond that it isn't read fast enough. Each time all queues of its
-- window are looked at.
if not once and ARGV[8] ~= '' and got < want and not stopped and call('SCARD', R .. 'window.' .. session .. '.' .. ARGV[6]) <= 16 then
  call('HSET', R .. 'parked.' .. q, holder, ARGV[8] .. ' 65536' .. (ARGV[9] == '1' and ' once' or ''))
end
table.insert(taken, 1, died)
table.insert(taken, 2, stopped and 1 or 0)
table.insert(taken, 3, handed)
return taken
