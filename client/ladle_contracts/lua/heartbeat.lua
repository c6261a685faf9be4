-- A node is alive. ARGV: node, and perhaps what its vetting found, as JSON. Answers 'ok', or 'unknown' if the node must register again because Redis has lost it.
local node, vetting = ARGV[1], ARGV[2] or ''
if redis.call('HEXISTS', node_key(node), 'catalog') == 0 then return 'unknown' end
redis.call('HSET', node_key(node), 'heartbeat_at', text(now_ms()))
if vetting ~= '' then redis.call('HSET', node_key(node), 'vetting', vetting) end
return 'ok'
