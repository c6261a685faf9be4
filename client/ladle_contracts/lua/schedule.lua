-- queued -> scheduled: reserves all the nodes that a job needs, or one dispatcher, or none. ARGV: scheduler's fence, id, claim time in ms,
-- node life in ms.
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
local needed = tonumber(get(id, 'nodes_needed'))
local found = survey(tonumber(get(id, 'ranks_needed')), life_ms, now)
if not is_possible(found, needed) then return {'impossible'} end
local chosen = nodes_for(found, needed)
if not chosen then return {'busy'} end
local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
for _, node in ipairs(chosen) do reserve(node, id) end
redis.call('DEL', leases_key(id))
redis.call('HSET', job_key(id), 'nodes', cjson.encode(chosen), 'claim_by', text(now + claim_ms))
dequeue(id)
redis.call('SADD', PREFIX .. 'active', id)
move(id, 'scheduled')
return {'scheduled', text(attempt), unpack(chosen)}
