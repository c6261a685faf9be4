-- A node goes away in order: it counts as dead at once. ARGV: node.
redis.call('HSET', node_key(ARGV[1]), 'heartbeat_at', 0)
return 'ok'
