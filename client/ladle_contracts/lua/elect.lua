-- Elects one scheduler. ARGV: the caller's token, life of the lock in ms. Answers the fence if it is elected, else ''.
local token, life_ms = ARGV[1], ARGV[2]
local lock = PREFIX .. 'scheduler:lock'
local holder = redis.call('GET', lock)
if holder == token then
  redis.call('PEXPIRE', lock, life_ms)
  return redis.call('GET', PREFIX .. 'scheduler:fence')
end
if holder then return '' end
redis.call('SET', lock, token, 'PX', life_ms)
return text(redis.call('INCR', PREFIX .. 'scheduler:fence'))
