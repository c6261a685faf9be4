-- scheduled -> running, once the last node has claimed. ARGV: id, attempt, node, lease in ms.
-- Answers {'ok', spec, owner}, {'taken'} (this node has claimed this attempt before) or {'stale'}.
local id, attempt, node, lease_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if not is_current(id, attempt) or get(id, 'state') ~= 'scheduled' then return {'stale'} end
local reserved, mine = cjson.decode(get(id, 'nodes')), false
for _, name in ipairs(reserved) do mine = mine or name == node end
if not mine then return {'stale'} end
if redis.call('HEXISTS', leases_key(id), node) == 1 then return {'taken'} end
redis.call('HSET', leases_key(id), node, text(now_ms() + lease_ms))
redis.call('HDEL', node_key(node), 'missed_at')
if redis.call('HLEN', leases_key(id)) == #reserved then
  redis.call('HSETNX', job_key(id), 'started_at', text(now_ms()))
  move(id, 'running')
end
return {'ok', get(id, 'spec')}
