-- A node shuts down: it gets no more jobs, and its agent learns it at the next renewal. ARGV: node.
redis.call('HSET', node_key(ARGV[1]), 'leaving', 1)
return 'ok'
