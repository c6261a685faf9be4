-- Renews a lease. ARGV: id, attempt, node, lease in ms, and from a dispatcher what the job waits for in its scheduler, or ''.
-- Answers 'ok', 'cancel', 'release' (the node shuts down or is drained) or
-- 'lost'.
local id, attempt, node, lease_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if not is_current(id, attempt) or redis.call('HEXISTS', leases_key(id), node) == 0 then return 'lost' end
redis.call('HSET', leases_key(id), node, text(now_ms() + lease_ms))
local waits_for = ARGV[5] or ''
if waits_for ~= (get(id, 'waits_for') or '') then redis.call('HSET', job_key(id), 'waits_for', waits_for) end
-- Waiting there is not running either.
if waits_for ~= '' and get(id, 'running_since') then redis.call('HSET', job_key(id), 'running_since', text(now_ms())) end
if get(id, 'state') == 'cancelling' then return 'cancel' end
if hands_back(node) then return 'release' end
return 'ok'
