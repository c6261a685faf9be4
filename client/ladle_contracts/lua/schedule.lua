-- queued -> scheduled: reserves all the nodes that a job needs, or one dispatcher, or none. ARGV: scheduler's fence, id,
-- claim time in ms, node life in ms, and of `next`: the most ranks of its nodes or '', '1' if it goes into a gap.
-- Answers {'scheduled', attempt, node...}, {'busy'} (its nodes have other jobs), {'impossible'} (too few such nodes are
-- alive), {'skip'} or {'deposed'}.
local fence, id, claim_ms, life_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if not is_elected(fence) then return {'deposed'} end
local now = now_ms()
local state = get(id, 'state')
if state ~= 'queued' then
  if state then dequeue(id) else redis.call('ZREM', PREFIX .. 'queue', id) end
  return {'skip'}
end
if backs_off(id, now) then return {'skip'} end
local need = need_of(lane_of(id))
local found = survey(usable_nodes(life_ms, now), need.ranks, tonumber(ARGV[5] or ''))
if not is_possible(found, need.least) then return {'impossible'} end
local chosen = nodes_for(need, found, least_now(need, found, get(id, 'queued_at'), now))
if not chosen then return {'busy'} end
local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
local took = #chosen
for _, node in ipairs(chosen) do
  if reserve(node, id) then took = need.nodes end
end
redis.call('DEL', leases_key(id))
redis.call('HSET', job_key(id), 'nodes', cjson.encode(chosen), 'claim_by', text(now + claim_ms), 'took', took,
           'in_gap', ARGV[6] or '')
dequeue(id)
local turn = redis.call('INCR', PREFIX .. 'turns')
redis.call('HSET', SERVED_ALL, need.owner, turn)
if ARGV[6] ~= '1' then redis.call('HSET', SERVED, need.owner, turn) end
redis.call('SADD', PREFIX .. 'active', id)
move(id, 'scheduled')
return {'scheduled', text(attempt), unpack(chosen)}
