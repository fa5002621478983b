-- Changes how many messages a consumer may have. ARGV: prefix, session, number of the holder, queue, how many, and the number
-- of its window.
local q, holder = ARGV[4], ARGV[2] .. '.' .. ARGV[3]
if not call('ZSCORE', R .. 'consumers.' .. q, holder) then return 0 end
write_in_any_case()
call('HSET', R .. 'wants.' .. q, holder, ARGV[5])
-- What it had room for may have waited beyond its time.
look_at_head(q)
return 1
