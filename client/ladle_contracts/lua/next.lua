-- The queued job that starts now. ARGV: scheduler's fence, node life in ms, claim time in ms.
-- Answers {} or {id, most ranks of its nodes or '', '1' if it goes into a gap}: what `schedule` is called with.
-- Costs the same for a queue of any length: it looks at the head of each lane. docs/queue.md has the order.
local fence, life_ms, claim_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if not is_elected(fence) then return {} end
-- A job may last so much longer than its time limit: until its ranks have ended and its nodes are free.
local ENDING_MS = 60000
local now = now_ms()
local nodes, work = usable_nodes(life_ms, now), jobs_at_work(now)

-- An earlier version, which knows no lanes, has added or removed jobs.
local function put_right()
  for _, need in ipairs(redis.call('SMEMBERS', PREFIX .. 'needs')) do redis.call('DEL', PREFIX .. 'queue:' .. need) end
  redis.call('DEL', PREFIX .. 'needs')
  for _, lane in ipairs(redis.call('SMEMBERS', PREFIX .. 'lanes')) do redis.call('DEL', lane_key(lane)) end
  redis.call('DEL', PREFIX .. 'lanes')
  for _, id in ipairs(redis.call('ZRANGE', PREFIX .. 'queue', 0, -1)) do
    if get(id, 'state') == 'queued' then put_into_queue(id) else redis.call('ZREM', PREFIX .. 'queue', id) end
  end
end

local function lanes()
  local found, in_lanes = redis.call('SMEMBERS', PREFIX .. 'lanes'), 0
  for _, lane in ipairs(found) do in_lanes = in_lanes + redis.call('ZCARD', lane_key(lane)) end
  if in_lanes == redis.call('ZCARD', PREFIX .. 'queue') and redis.call('EXISTS', PREFIX .. 'needs') == 0 then
    return found
  end
  put_right()
  return redis.call('SMEMBERS', PREFIX .. 'lanes')
end

-- The first job of a lane that may be tried.
local function first_of(lane)
  local position = 0
  while true do
    local found = redis.call('ZRANGE', lane_key(lane), position, position, 'WITHSCORES')
    local id = found[1]
    if not id then return nil end
    local job = redis.call('HMGET', job_key(id), 'state', 'not_before', 'queued_at')
    if job[1] ~= 'queued' then
      take_from_lane(id, lane)
    elseif is_backing_off(job[2], now) then
      position = position + 1
    else
      return {id = id, place = tonumber(found[2]), need = need_of(lane), queued_at = job[3]}
    end
  end
end

local surveys = {}
local function surveyed(ranks)
  surveys[ranks] = surveys[ranks] or survey(nodes, ranks)
  return surveys[ranks]
end

-- How many nodes each owner has, and when it was last served.
local function shares(with_gaps)
  local used, key = nodes_in_use(work, with_gaps), with_gaps and SERVED_ALL or SERVED
  local found = {}
  return function(owner)
    found[owner] = found[owner]
                   or {used = used[owner] or 0, served = tonumber(redis.call('HGET', key, owner) or 0)}
    return found[owner]
  end
end

-- The first one of each lane, without those that need more nodes than there are.
local function candidates()
  local found, in_turn, in_gaps = {}, shares(false), shares(true)
  for _, lane in ipairs(lanes()) do
    local job = first_of(lane)
    if job and is_possible(surveyed(job.need.ranks), job.need.least) then
      job.found = surveyed(job.need.ranks)
      job.least = least_now(job.need, job.found, job.queued_at, now)
      job.in_turn, job.in_gaps = in_turn(job.need.owner), in_gaps(job.need.owner)
      found[#found + 1] = job
    end
  end
  return found
end

-- The owner with the fewest nodes goes first; of several, the one who was served the longest ago.
local function fairly(share)
  return function(one, other)
    local its, others = one[share], other[share]
    if its.used ~= others.used then return its.used < others.used end
    if its.served ~= others.served then return its.served < others.served end
    if one.place ~= other.place then return one.place < other.place end
    return one.id < other.id
  end
end

-- The job that is next. Once it waits for nodes, only one with an earlier place comes before it.
local function head_of(jobs)
  table.sort(jobs, fairly('in_turn'))
  local waiting, place = redis.call('GET', HEAD), math.huge
  for _, job in ipairs(jobs) do
    if job.id == waiting then place = job.place end
  end
  for _, job in ipairs(jobs) do
    if job.place < place or job.id == waiting or place == math.huge then return job end
  end
end

-- When the jobs that have its nodes have reached their time limits, so that it certainly starts.
local function certain_start(head)
  local ends = {}
  for _, node in ipairs(nodes) do
    if not node.holds and node.ranks >= head.need.ranks then
      local job = work[node.job]
      ends[#ends + 1] = node.room > 0 and now or job and job.over_at or math.huge
    end
  end
  table.sort(ends)
  local with_all, with_least = ends[head.need.nodes] or math.huge, ends[head.need.least] or math.huge
  if head.least == head.need.least then return with_least end
  return math.min(with_all, math.max(with_least, tonumber(head.queued_at or now) + PATIENCE_MS))
end

-- When it is over at the latest, if it starts now.
local function certain_end(job)
  local fields = redis.call('HMGET', job_key(job.id), 'timeout_s', 'ran_ms')
  local limit = tonumber(fields[1] or '')
  return limit and now + claim_ms + limit * 1000 - tonumber(fields[2] or 0) + ENDING_MS or math.huge
end

-- A job that does not take anything from the head: it uses nodes that the head cannot use, or is over before the head
-- starts.
local function fit_for_gap(jobs, head)
  local starts = certain_start(head)
  table.sort(jobs, fairly('in_gaps'))
  for _, job in ipairs(jobs) do
    if job.id ~= head.id then
      local most = head.need.ranks - 1
      if most > 0 and nodes_for(job.need, survey(nodes, job.need.ranks, most), job.least) then return {job.id, most, '1'} end
      if certain_end(job) <= starts and starts < math.huge and nodes_for(job.need, job.found, job.least) then
        return {job.id, '', '1'}
      end
    end
  end
  return {}
end

local jobs = candidates()
local head = head_of(jobs)
if not head then return {} end
if nodes_for(head.need, head.found, head.least) then return {head.id, '', ''} end
if redis.call('GET', HEAD) ~= head.id then redis.call('SET', HEAD, head.id) end
return fit_for_gap(jobs, head)
