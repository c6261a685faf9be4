-- Events, snapshot and log lines of the current attempt, in one step.
-- ARGV: id, attempt, end of what is reported (a byte offset), progress JSON or '', number of events, events..., log lines...
-- A report that is sent twice, because its answer was lost, is written once. Answers 'ok' or 'lost'.
local id, attempt, offset, progress, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
if not is_current(id, attempt) then return 'lost' end
local field = 'offset:' .. attempt
local known = redis.call('HGET', job_key(id) .. ':progress', field)
if known and tonumber(known) >= offset then return 'ok' end
redis.call('HSET', job_key(id) .. ':progress', field, text(offset))
if progress ~= '' then redis.call('HSET', job_key(id) .. ':progress', 'json', progress) end
for position = 6, 5 + count do append(id, attempt, ARGV[position]) end
for position = 6 + count, #ARGV do redis.call('RPUSH', job_key(id) .. ':log', ARGV[position]) end
redis.call('LTRIM', job_key(id) .. ':log', -2000, -1)
return 'ok'
