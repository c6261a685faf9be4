-- A node starts or restarts. ARGV: node, then fields and values of its hash.
-- The jobs that it had before the restart are lost. Their leases end now, so that the reaper does not have to wait.
local node = ARGV[1]
local held = redis.call('SMEMBERS', node_jobs_key(node))
held[#held + 1] = redis.call('HGET', node_key(node), 'job') or ''
for _, id in ipairs(held) do
  if id ~= '' and redis.call('HEXISTS', leases_key(id), node) == 1 then redis.call('HSET', leases_key(id), node, 0) end
end
local now = text(now_ms())
for position = 2, #ARGV, 2 do redis.call('HSET', node_key(node), ARGV[position], ARGV[position + 1]) end
redis.call('HSET', node_key(node), 'started_at', now, 'heartbeat_at', now, 'leaving', 0)
-- What it did before stays known: its failures, and whether it takes jobs.
if not redis.call('HGET', node_key(node), 'failures_in_row') then redis.call('HDEL', node_key(node), 'missed_at') end
redis.call('SADD', PREFIX .. 'nodes', node)
redis.call('PUBLISH', PREFIX .. 'wake', node)
return 'ok'
