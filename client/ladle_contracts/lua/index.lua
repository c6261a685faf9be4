-- Makes the indexes of some jobs agree with the jobs, where an earlier version has changed them. Writes only what differs.
-- ARGV: scheduler's fence, cursor of ZSCAN ('0' begins), how many jobs at a time. Answers the next cursor ('0' after the
-- last ones) or 'deposed'.
local fence, cursor, batch = ARGV[1], ARGV[2], ARGV[3]
if not is_elected(fence) then return 'deposed' end

local function put(key, score, id, belongs)
  if (redis.call('ZSCORE', key, id) and true or false) == belongs then return end
  if belongs then redis.call('ZADD', key, score, id) else redis.call('ZREM', key, id) end
end

local function agree(id)
  local job = redis.call('HMGET', job_key(id), 'owner', 'created_at', 'state', 'finished_at', 'labelled')
  if not job[3] then return forget(id) end
  for _, state in ipairs(STATES) do
    put(state_key(state), job[2], id, state == job[3])
    put(owner_state_key(job[1], state), job[2], id, state == job[3])
  end
  local is_queued = redis.call('ZSCORE', PREFIX .. 'queue', id) and redis.call('ZSCORE', lane_key(lane_of(id)), id)
  if job[3] == 'queued' then
    if not is_queued then put_into_queue(id) end
  else
    dequeue(id)
  end
  if TERMINAL[job[3]] and not redis.call('ZSCORE', PREFIX .. 'finished', id) then
    redis.call('ZADD', PREFIX .. 'finished', job[4], id)
    redis.call('ZADD', PREFIX .. 'finished:traces', job[4], id)
  end
  if job[5] ~= '1' then store_labels(id) end
end

local found = redis.call('ZSCAN', PREFIX .. 'jobs', cursor, 'COUNT', batch)
for position = 1, #found[2], 2 do agree(found[2][position]) end
if found[1] == '0' and redis.call('EXISTS', PREFIX .. 'indexed') == 0 then redis.call('SET', PREFIX .. 'indexed', 1) end
return found[1]
