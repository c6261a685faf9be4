-- Removes what is older than the operator wants to keep, a little at a time.
-- ARGV: scheduler's fence, ages in ms of jobs that have ended, of their events and logs, and of nodes that are gone, how many
-- jobs that have ended to keep, how much to remove at a time. 0 keeps for ever, or any number.
-- Answers how much it has removed, or 'deposed'.
local fence, jobs_ms, traces_ms, nodes_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local most, batch = tonumber(ARGV[5]), tonumber(ARGV[6])
if not is_elected(fence) then return 'deposed' end
local now, removed = now_ms(), 0

local function older(key, age_ms)
  if age_ms == 0 then return {} end
  return redis.call('ZRANGEBYSCORE', key, '-inf', text(now - age_ms), 'LIMIT', 0, batch)
end

local function remove(ids)
  for _, id in ipairs(ids) do forget(id) end
  removed = removed + #ids
end

remove(older(PREFIX .. 'finished', jobs_ms))
local excess = math.min(redis.call('ZCARD', PREFIX .. 'finished') - most, batch)
if most > 0 and excess > 0 then remove(redis.call('ZRANGE', PREFIX .. 'finished', 0, excess - 1)) end
for _, id in ipairs(older(PREFIX .. 'finished:traces', traces_ms)) do
  -- The last event says how the job ended.
  redis.call('XTRIM', events_key(id), 'MAXLEN', 1)
  redis.call('UNLINK', job_key(id) .. ':log')
  redis.call('ZREM', PREFIX .. 'finished:traces', id)
  removed = removed + 1
end
for _, node in ipairs(redis.call('SMEMBERS', PREFIX .. 'nodes')) do
  local fields = redis.call('HMGET', node_key(node), 'heartbeat_at', 'job', 'cordoned')
  local is_old = nodes_ms > 0 and (not fields[1] or tonumber(fields[1]) < now - nodes_ms)
  local has_jobs = redis.call('SISMEMBER', PREFIX .. 'active', fields[2] or '') == 1
                   or #redis.call('SINTER', node_jobs_key(node), PREFIX .. 'active') > 0
  -- Who is cordoned stays so until the operator says otherwise.
  if is_old and not has_jobs and (fields[3] or '') == '' then
    redis.call('SREM', PREFIX .. 'nodes', node)
    -- With the calls that nobody has heard.
    redis.call('DEL', node_key(node), node_jobs_key(node), 'ladle.node.' .. node)
    removed = removed + 1
  end
end
return removed
