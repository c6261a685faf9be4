-- After a pause of the scheduler or of Redis, nobody can tell which nodes are gone, because none could renew. So every lease
-- and every call for a job lasts at least this much longer. A lease only grows: its node relies on it.
-- ARGV: scheduler's fence, time in ms. Answers 'ok' or 'deposed'.
local fence, settle_ms = ARGV[1], tonumber(ARGV[2])
if not is_elected(fence) then return 'deposed' end
-- No lease is longer. One that seems to be was renewed before Redis' clock was put back.
local LONGEST_LEASE_MS = 3600000
local now = now_ms()

local function extended(time_ms)
  local time = tonumber(time_ms)
  if time < now + settle_ms or time > now + LONGEST_LEASE_MS then time = now + settle_ms end
  return text(time)
end

for _, id in ipairs(redis.call('SMEMBERS', PREFIX .. 'active')) do
  local leases = redis.call('HGETALL', leases_key(id))
  for position = 1, #leases, 2 do
    -- 0 is a node that has restarted: its attempt is lost whatever the clock says.
    if leases[position + 1] ~= '0' then
      redis.call('HSET', leases_key(id), leases[position], extended(leases[position + 1]))
    end
  end
  if get(id, 'state') == 'scheduled' then
    redis.call('HSET', job_key(id), 'claim_by', extended(get(id, 'claim_by')))
  end
end
return 'ok'
