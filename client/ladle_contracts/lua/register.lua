-- A node starts or restarts. ARGV: node, then fields and values of its hash.
-- The job that it had before the restart is lost. Its lease ends now, so that the reaper does not have to wait.
local node = ARGV[1]
local held = redis.call('HGET', node_key(node), 'job')
if held and held ~= '' and redis.call('HEXISTS', leases_key(held), node) == 1 then
  redis.call('HSET', leases_key(held), node, 0)
end
local now = text(now_ms())
for position = 2, #ARGV, 2 do redis.call('HSET', node_key(node), ARGV[position], ARGV[position + 1]) end
redis.call('HSET', node_key(node), 'started_at', now, 'heartbeat_at', now, 'leaving', 0)
redis.call('HDEL', node_key(node), 'missed_at')
redis.call('SADD', PREFIX .. 'nodes', node)
redis.call('PUBLISH', PREFIX .. 'wake', node)
return 'ok'
