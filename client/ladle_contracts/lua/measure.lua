-- What the service tells Prometheus of Redis. Reads only. ARGV: life of a node in ms.
-- Answers {now, names and numbers of all that is counted, states and how many jobs, when the oldest queued job was put into
-- the queue or '', states and how many nodes, jobs that somebody is still to be told of}.
local life_ms, now = tonumber(ARGV[1]), now_ms()
local jobs, oldest, nodes = {}, '', {}
for _, state in ipairs(STATES) do
  jobs[#jobs + 1] = state
  jobs[#jobs + 1] = redis.call('ZCARD', state_key(state))
end
local first = redis.call('ZRANGE', state_key('queued'), 0, 0, 'WITHSCORES')
if first[2] then oldest = first[2] end

-- As `NodeRecord.state`.
local function node_state(id)
  local fields = redis.call('HMGET', node_key(id), 'heartbeat_at', 'leaving', 'draining', 'cordoned', 'job')
  if not fields[1] or math.abs(now - tonumber(fields[1])) >= life_ms or fields[2] == '1' then return 'gone' end
  local has_jobs = (fields[5] or '') ~= '' or redis.call('EXISTS', node_jobs_key(id)) == 1
  if (fields[3] or '') ~= '' then return has_jobs and 'draining' or 'drained' end
  if (fields[4] or '') ~= '' then return 'cordoned' end
  return has_jobs and 'busy' or 'ready'
end

local found = {}
for _, id in ipairs(redis.call('SMEMBERS', PREFIX .. 'nodes')) do
  local state = node_state(id)
  found[state] = (found[state] or 0) + 1
end
for state, number in pairs(found) do
  nodes[#nodes + 1] = state
  nodes[#nodes + 1] = number
end
return {text(now), redis.call('HGETALL', PREFIX .. 'counts'), jobs, oldest, nodes, redis.call('ZCARD', PREFIX .. 'webhooks')}
