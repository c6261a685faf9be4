-- After a pause of the scheduler or of Redis, nobody can tell which nodes are gone, because none could renew. Every lease
-- and every call for a job gets this much more time. It also puts right what a jump of Redis' clock made too long.
-- ARGV: scheduler's fence, time in ms. Answers 'ok' or 'deposed'.
local fence, settle_ms = ARGV[1], tonumber(ARGV[2])
if not is_elected(fence) then return 'deposed' end
local until_ms = text(now_ms() + settle_ms)
for _, id in ipairs(redis.call('SMEMBERS', PREFIX .. 'active')) do
  local leases = redis.call('HGETALL', leases_key(id))
  for position = 1, #leases, 2 do
    -- 0 is a node that has restarted: its attempt is lost whatever the clock says.
    if leases[position + 1] ~= '0' then redis.call('HSET', leases_key(id), leases[position], until_ms) end
  end
  if get(id, 'state') == 'scheduled' then redis.call('HSET', job_key(id), 'claim_by', until_ms) end
end
return 'ok'
