-- Elects one scheduler. ARGV: the caller's token, life of the lock in ms. Answers the fence if it is elected, else ''.
-- The lock is renewed when half of its life is over, because each renewal is written to Redis' file.
local token, life_ms = ARGV[1], ARGV[2]
local lock = PREFIX .. 'scheduler:lock'
local holder = redis.call('GET', lock)
if holder == token then
  if redis.call('PTTL', lock) < tonumber(life_ms) / 2 then redis.call('PEXPIRE', lock, life_ms) end
  return redis.call('GET', PREFIX .. 'scheduler:fence')
end
if holder then return '' end
redis.call('SET', lock, token, 'PX', life_ms)
return text(redis.call('INCR', PREFIX .. 'scheduler:fence'))
