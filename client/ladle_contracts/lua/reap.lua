-- Ends an attempt whose node no longer renews its lease. ARGV: scheduler's fence, id, backoff in ms, and perhaps the
-- time at which the scheduler last looked at the clock and for how many ms that counts.
-- Answers 'alive', 'unclaimed' (its nodes may have missed the message), the new state, 'late' (the scheduler or Redis has
-- stood still in between, so this is no time to judge) or 'deposed'.
local fence, id, backoff_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not is_elected(fence) then return 'deposed' end
local state, now = get(id, 'state'), now_ms()
if ARGV[4] and math.abs(now - tonumber(ARGV[4])) > tonumber(ARGV[5]) then return 'late' end
if not state or TERMINAL[state] or state == 'queued' then
  redis.call('SREM', PREFIX .. 'active', id)
  return state or ''
end
local expired, restarted, claimed = {}, true, 0
local leases = redis.call('HGETALL', leases_key(id))
for position = 1, #leases, 2 do
  claimed = claimed + 1
  if tonumber(leases[position + 1]) < now then
    expired[#expired + 1] = leases[position]
    restarted = restarted and leases[position + 1] == '0'
  end
end
table.sort(expired)
if state == 'cancelling' then
  if claimed == 0 or #expired > 0 then
    finish(id, 'cancelled', 'cancelled', 'The job was cancelled.')
    return 'cancelled'
  end
  return 'alive'
end
if #expired > 0 then
  local message = named(expired) .. (#expired == 1 and ' no longer responds.' or ' no longer respond.')
  if restarted then message = named(expired) .. (#expired == 1 and ' has' or ' have') .. ' restarted.' end
  return fail_of_lost_nodes(id, expired, message, backoff_ms)
end
if state == 'scheduled' then
  if tonumber(get(id, 'claim_by')) < now then
    local silent = {}
    for _, node in ipairs(cjson.decode(get(id, 'nodes'))) do
      if redis.call('HEXISTS', leases_key(id), node) == 0 then silent[#silent + 1] = node end
    end
    return fail_of_nodes(id, silent, 'node-lost', named(silent) .. ' did not answer in time.', backoff_ms)
  end
  return 'unclaimed'
end
return 'alive'
