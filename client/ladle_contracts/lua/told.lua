-- Notes how the calls went that tell of a job's end. ARGV: scheduler's fence, id, in how many ms the next one is due or ''
-- if none is; then of each call its address, how it went and how far it is, as JSON.
-- Answers 'ok', 'gone' (the job was deleted) or 'deposed'.
local fence, id, due_ms = ARGV[1], ARGV[2], ARGV[3]
if not is_elected(fence) then return 'deposed' end
if redis.call('EXISTS', job_key(id)) == 0 then
  redis.call('ZREM', PREFIX .. 'webhooks', id)
  return 'gone'
end
for position = 4, #ARGV, 3 do
  redis.call('HSET', webhooks_key(id), ARGV[position], ARGV[position + 2])
  count('webhook ' .. ARGV[position + 1], 1)
end
if due_ms == '' then
  redis.call('ZREM', PREFIX .. 'webhooks', id)
else
  redis.call('ZADD', PREFIX .. 'webhooks', text(now_ms() + tonumber(due_ms)), id)
end
return 'ok'
