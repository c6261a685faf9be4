-- running -> finalizing, and the fence before a result is moved to its place: it renews the node's lease, and while that
-- lasts no other attempt begins and the job cannot end as cancelled. ARGV: id, attempt, node, lease in ms.
-- Answers 'ok', 'cancel' or 'lost'. A node may ask again.
local id, attempt, node, lease_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if not is_current(id, attempt) or redis.call('HEXISTS', leases_key(id), node) == 0 then return 'lost' end
local state = get(id, 'state')
if state == 'cancelling' then return 'cancel' end
if state == 'running' then move(id, 'finalizing') end
redis.call('HSET', leases_key(id), node, text(now_ms() + lease_ms))
return 'ok'
