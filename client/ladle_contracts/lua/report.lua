-- Events, snapshot and log lines of the current attempt, in one step.
-- ARGV: id, attempt, end of what is reported (a byte offset), progress JSON or '', number of events, what is to be counted as
-- JSON or '', events..., log lines...
-- A report that is sent twice, because its answer was lost, is written once. Answers 'ok' or 'lost'.
local id, attempt, offset, progress = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local events, counted = tonumber(ARGV[5]), ARGV[6]
if not is_current(id, attempt) then return 'lost' end
local field = 'offset:' .. attempt
local known = redis.call('HGET', job_key(id) .. ':progress', field)
if known and tonumber(known) >= offset then return 'ok' end
redis.call('HSET', job_key(id) .. ':progress', field, text(offset))
if progress ~= '' then redis.call('HSET', job_key(id) .. ':progress', 'json', progress) end
for position = 7, 6 + events do append(id, attempt, ARGV[position]) end
for position = 7 + events, #ARGV do redis.call('RPUSH', job_key(id) .. ':log', ARGV[position]) end
redis.call('LTRIM', job_key(id) .. ':log', -2000, -1)
for name, more in pairs(counted ~= '' and cjson.decode(counted) or {}) do count(name, more) end
return 'ok'
