-- scheduled -> running, once the last node has claimed. ARGV: id, attempt, node, lease in ms, the caller's token or ''.
-- Answers {'ok', spec}, {'taken'} (this node has claimed this attempt before) or {'stale'}.
local id, attempt, node, lease_ms, token = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] or ''
local claimed_by = 'claimed_by:' .. node
-- The same call again, because its answer was lost on the way.
if token ~= '' and get(id, claimed_by) == token and is_current(id, attempt) then
  redis.call('HSET', leases_key(id), node, text(now_ms() + lease_ms))
  return {'ok', get(id, 'spec')}
end
if not is_current(id, attempt) or get(id, 'state') ~= 'scheduled' then return {'stale'} end
local reserved, mine = cjson.decode(get(id, 'nodes')), false
for _, name in ipairs(reserved) do mine = mine or name == node end
if not mine then return {'stale'} end
if redis.call('HEXISTS', leases_key(id), node) == 1 then return {'taken'} end
redis.call('HSET', leases_key(id), node, text(now_ms() + lease_ms))
redis.call('HSET', job_key(id), claimed_by, token)
if not redis.call('HGET', node_key(node), 'failures_in_row') then redis.call('HDEL', node_key(node), 'missed_at') end
if redis.call('HLEN', leases_key(id)) == #reserved then
  redis.call('HSETNX', job_key(id), 'started_at', text(now_ms()))
  redis.call('HSET', job_key(id), 'running_since', text(now_ms()))
  move(id, 'running')
end
return {'ok', get(id, 'spec')}
