-- Renews a lease. ARGV: id, attempt, node, lease in ms. Answers 'ok', 'cancel', 'release' (the node shuts down or is drained) or
-- 'lost'.
local id, attempt, node, lease_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if not is_current(id, attempt) or redis.call('HEXISTS', leases_key(id), node) == 0 then return 'lost' end
redis.call('HSET', leases_key(id), node, text(now_ms() + lease_ms))
if get(id, 'state') == 'cancelling' then return 'cancel' end
if hands_back(node) then return 'release' end
return 'ok'
