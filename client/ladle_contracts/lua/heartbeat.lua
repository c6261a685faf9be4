-- A node is alive. ARGV: node. Answers 'ok', or 'unknown' if the node must register again because Redis has lost it.
local node = ARGV[1]
if redis.call('HEXISTS', node_key(node), 'catalog') == 0 then return 'unknown' end
redis.call('HSET', node_key(node), 'heartbeat_at', text(now_ms()))
return 'ok'
