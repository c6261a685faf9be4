-- An operator says whether a node takes jobs. ARGV: node, 'cordon' (it takes no more), 'drain' (the same, and it is meant to
-- become empty), 'drain-now' (it also hands its jobs back) or 'uncordon' (it takes jobs, and its failures are forgotten), and
-- why, in words.
-- Answers 'changed', 'same' (it was so before) or 'unknown'.
local node, verb, reason = ARGV[1], ARGV[2], ARGV[3]
local key = node_key(node)
if redis.call('HEXISTS', key, 'heartbeat_at') == 0 then return 'unknown' end
local fields = redis.call('HMGET', key, 'cordoned', 'cordoned_by', 'draining', 'failures_in_row')
local is_cordoned, draining = (fields[1] or '') ~= '', fields[3] or ''
if verb == 'uncordon' then
  forget_failures(node)
  redis.call('HSET', key, 'cordoned', '', 'cordoned_by', '', 'draining', '')
  redis.call('PUBLISH', PREFIX .. 'wake', node)
  return (is_cordoned or fields[4]) and 'changed' or 'same'
end
local wanted = ({cordon = draining, drain = draining == 'now' and 'now' or 'yes', ['drain-now'] = 'now'})[verb]
if is_cordoned and fields[2] == 'operator' and draining == wanted then return 'same' end
-- A node that its failures have cordoned keeps saying which.
if is_cordoned and fields[2] == 'failures' then reason = reason .. ', after ' .. fields[1] end
redis.call('HSET', key, 'cordoned', reason, 'cordoned_by', 'operator', 'cordoned_at', text(now_ms()), 'draining', wanted)
redis.call('PUBLISH', PREFIX .. 'wake', node)
return 'changed'
