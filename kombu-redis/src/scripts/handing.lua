-- Says to a consumer what is handed over to it. False if nobody hears that.
local function say(holder, db, q, window, before, given)
  local session, n = holder:match('^(%d+)%.(%d+)$')
  local head, texts = {n, window, before, #q}, {q}
  for i = 1, #given, 2 do
    head[#head + 1] = given[i]
    head[#head + 1] = #given[i + 1]
    texts[#texts + 1] = given[i + 1]
  end
  local text = table.concat(head, ' ') .. '\n' .. table.concat(texts)
  local heard = redis.pcall('PUBLISH', R .. 'handed.' .. db .. '.' .. session, text)
  return type(heard) == 'number' and heard > 0
end

-- Any consumer that waits at a queue, and what is noted of it; none of `but`, which has so many.
local function anybody(parked, but, count)
  local all = call('HRANDFIELD', parked, count + 1, 'WITHVALUES')
  for i = 1, #all, 2 do
    if not but or not but[all[i]] then return all[i], all[i + 1] end
  end
end

-- Hands messages to a consumer that waits at an empty queue: for as many of them, from the first on, as it has room. So it
-- needn't be told, and ask. New ones belong to a list; `ids` are those of messages that `but`, so many others, give back.
-- Answers how many it was given.
local function hand_over(q, step, all, first, last, ids, but, count)
  local parked, list = R .. 'parked.' .. q, P .. q
  local holder, noted = anybody(parked, but, count or 0)
  if not holder or call('EXISTS', list, list .. STEP[1], list .. STEP[2], list .. STEP[3]) > 0 then return 0 end
  while holder do
    local wants = call('HGET', R .. 'wants.' .. q, holder)
    local db, left, once = noted:match('^(%d+) (%d+)(.*)$')
    local n, given = wants and math.min(room(holder, wants), last - first + 1) or 0, {}
    left = tonumber(left)
    local held = R .. 'unacked.' .. holder .. '.' .. q
    for i = 1, n do
      local id = ids and ids[first + i - 1]
      -- It may hold a copy that Python made, or this be one.
      if #all[first + i - 1] > left or id and (id == ids[first + i - 2] or call('HEXISTS', held, id) == 1) then
        n = i - 1
        break
      end
      left = left - #all[first + i - 1]
    end
    if n > 0 then
      local seq = ids and 0 or call('HINCRBY', R .. 'q.' .. q, 'seq', n) - n
      for i = 1, n do
        given[2 * i - 1] = ids and ids[first + i - 1] or string.format('%d%d', seq + i, step)
        given[2 * i] = all[first + i - 1]
      end
      local session, window = holder:match('^%d+'), wants:match('%d+$')
      local handed = call('HINCRBY', R .. 'handed.' .. session, window, n)
      if say(holder, db, q, window, string.format('%d', handed - n), given) then
        for i = 1, once == '' and #given or 0, CHUNK do
          call('HSET', held, unpack(given, i, math.min(i + CHUNK - 1, #given)))
        end
        call('HSET', parked, holder, db .. ' ' .. left .. once)
        return n
      end
      call('HINCRBY', R .. 'handed.' .. session, window, -n)
    else
      -- A server without memory refuses this, and not what follows.
      call('HINCRBY', R .. 'q.' .. q, 'seq', 0)
    end
    -- It is told of what comes all the same, and asks.
    call('HDEL', parked, holder)
    holder, noted = anybody(parked, but, count or 0)
  end
  return 0
end
