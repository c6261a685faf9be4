-- A node goes away in order: it gets no more jobs, and its agent hears of it at the next renewal. ARGV: node.
redis.call('HSET', node_key(ARGV[1]), 'leaving', 1)
return 'ok'
