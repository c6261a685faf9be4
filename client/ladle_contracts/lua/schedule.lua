-- queued -> scheduled: reserves all the nodes that a job needs, or none. ARGV: scheduler's fence, id, claim time in ms,
-- node life in ms.
-- Answers {'scheduled', attempt, node...}, {'busy'} (its nodes have other jobs; jobs behind it wait), {'impossible'} (too
-- few such nodes are alive; jobs behind it may start first), {'skip'} or {'deposed'}.
local DOUBT_MS = 300000
local fence, id, claim_ms, life_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('GET', PREFIX .. 'scheduler:fence') ~= fence then return {'deposed'} end
local now = now_ms()
if get(id, 'state') ~= 'queued' then
  redis.call('ZREM', PREFIX .. 'queue', id)
  return {'skip'}
end
if tonumber(get(id, 'not_before')) > now then return {'skip'} end
local needed, ranks = tonumber(get(id, 'nodes_needed')), tonumber(get(id, 'ranks_needed'))
local alive, free, doubtful = 0, {}, {}
local nodes = redis.call('SMEMBERS', PREFIX .. 'nodes')
table.sort(nodes)
for _, node in ipairs(nodes) do
  local fields = redis.call('HMGET', node_key(node), 'heartbeat_at', 'ranks', 'job', 'leaving', 'missed_at')
  if fields[1] and tonumber(fields[1]) + life_ms > now and fields[4] ~= '1' and tonumber(fields[2]) >= ranks then
    alive = alive + 1
    -- A reservation whose job no longer has any nodes is a left-over.
    if not fields[3] or fields[3] == '' or redis.call('SISMEMBER', PREFIX .. 'active', fields[3]) == 0 then
      -- A node that did not answer the last time is used only if there is no other.
      if fields[5] and tonumber(fields[5]) + DOUBT_MS > now then
        doubtful[#doubtful + 1] = node
      else
        free[#free + 1] = node
      end
    end
  end
end
for _, node in ipairs(doubtful) do free[#free + 1] = node end
if #free < needed then
  local each = ''
  if ranks > 1 then each = ' of ' .. ranks .. ' ranks' end
  local plural = 's'
  if needed == 1 then plural = '' end
  redis.call('HSET', job_key(id), 'waiting_for',
             'needs ' .. needed .. ' node' .. plural .. each .. ', ' .. #free .. ' free of ' .. alive)
  if alive < needed then return {'impossible'} end
  return {'busy'}
end
local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
local chosen, answer = {}, {'scheduled', text(attempt)}
for position = 1, needed do
  chosen[position] = free[position]
  answer[position + 2] = free[position]
  redis.call('HSET', node_key(free[position]), 'job', id)
end
redis.call('DEL', leases_key(id))
redis.call('HSET', job_key(id), 'nodes', cjson.encode(chosen), 'waiting_for', '', 'claim_by', text(now + claim_ms))
redis.call('ZREM', PREFIX .. 'queue', id)
redis.call('SADD', PREFIX .. 'active', id)
move(id, 'scheduled')
return answer
