-- What queued jobs wait for. Reads only. ARGV: node life in ms, then ids.
-- Answers JSON: how long the last jobs took that succeeded, how many nodes the running ones have and for how long, what the
-- job needs that is next and waits for nodes, and for each id what there is for it and what comes before it.
local LAST = 20
local life_ms, now = tonumber(ARGV[1]), now_ms()
local nodes, work = usable_nodes(life_ms, now), jobs_at_work(now)
local used = nodes_in_use(work, false)

-- Owner -> when it was last served.
local function read_served()
  local found, all = {}, redis.call('HGETALL', SERVED)
  for position = 1, #all, 2 do found[all[position]] = tonumber(all[position + 1]) end
  return found
end

local served = read_served()

-- Nodes that would be usable, but an operator or their failures have taken them out.
local function cordoned_nodes(ranks)
  local count = 0
  for _, node in ipairs(redis.call('SMEMBERS', PREFIX .. 'nodes')) do
    local fields = redis.call('HMGET', node_key(node), 'cordoned', 'heartbeat_at', 'ranks', 'leaving', 'dispatches')
    if (fields[1] or '') ~= '' and math.abs(now - tonumber(fields[2])) < life_ms and tonumber(fields[3]) >= ranks
       and fields[4] ~= '1' and fields[5] ~= '1' then
      count = count + 1
    end
  end
  return count
end

-- What is there for jobs of one need.
local function supply(need)
  local found = survey(nodes, need.ranks)
  return {nodes = need.nodes, least = need.least, ranks = need.ranks, free = #found.free, alive = found.alive,
          room = found.room, holds = found.holds, cordoned = cordoned_nodes(need.ranks)}
end

-- Those lanes that can start at all, and each owner's jobs in them and nodes that these need.
local function read_lanes()
  local lanes, owners = {}, {}
  for _, lane in ipairs(redis.call('SMEMBERS', PREFIX .. 'lanes')) do
    local need = need_of(lane)
    if is_possible(survey(nodes, need.ranks), need.least) then
      local count, owner = redis.call('ZCARD', lane_key(lane)), owners[need.owner] or {jobs = 0, nodes = 0, lanes = {}}
      owner.jobs, owner.nodes = owner.jobs + count, owner.nodes + count * need.nodes
      owner.lanes[#owner.lanes + 1] = {key = lane_key(lane), need = need}
      owners[need.owner] = owner
    end
  end
  return owners
end

local owners = read_lanes()

-- How many jobs of the same owner come before it, and how many nodes they need.
local function own_before(id, owner)
  local jobs, needed, place = 0, 0, place_of(id)
  for _, lane in ipairs(owners[owner] and owners[owner].lanes or {}) do
    local count = redis.call('ZRANK', lane.key, id) or redis.call('ZCOUNT', lane.key, '-inf', '(' .. place)
    jobs, needed = jobs + count, needed + count * lane.need.nodes
  end
  return jobs, needed
end

-- Whether the other owner's turn is first, if both have equally many nodes.
local function is_served_first(other, owner, created_at)
  local others, own = served[other] or 0, served[owner] or 0
  if others ~= own then return others < own end
  return redis.call('ZCOUNT', owner_state_key(other, 'queued'), '-inf', '(' .. created_at) > 0
end

-- About the same for other owners: they take turns, and who has more nodes waits for as many turns.
local function others_before(owner, own_jobs, created_at)
  local jobs, needed = 0, 0
  for other, has in pairs(owners) do
    if other ~= owner then
      local turns = own_jobs + (used[owner] or 0) - (used[other] or 0)
      if is_served_first(other, owner, created_at) then turns = turns + 1 end
      local count = math.min(has.jobs, math.max(0, turns))
      jobs, needed = jobs + count, needed + count * has.nodes / has.jobs
    end
  end
  return jobs, needed
end

local head = redis.call('GET', HEAD)
if head and get(head, 'state') ~= 'queued' then head = false end

local function about(id)
  local job = redis.call('HMGET', job_key(id), 'owner', 'created_at', 'not_before', 'queued_at', 'state')
  if job[5] ~= 'queued' then return {} end
  local need = need_of(lane_of(id))
  local found = supply(need)
  local backoff_ms, queued_ms = tonumber(job[3] or 0) - now, now - tonumber(job[4] or now)
  found.backoff_ms = backs_off(id, now) and backoff_ms or 0
  found.fewer_in_ms = math.max(0, PATIENCE_MS - math.abs(queued_ms))
  found.jobs_before, found.nodes_before = 0, 0
  if id ~= head then
    local own_jobs, own_nodes = own_before(id, job[1])
    local other_jobs, other_nodes = others_before(job[1], own_jobs, job[2])
    found.jobs_before, found.nodes_before = own_jobs + other_jobs, own_nodes + other_nodes
    if head and found.jobs_before == 0 then found.jobs_before, found.nodes_before = 1, need_of(lane_of(head)).nodes end
  end
  return found
end

local function durations()
  local found = {}
  for _, id in ipairs(redis.call('ZREVRANGE', PREFIX .. 'finished', 0, LAST - 1)) do
    local job = redis.call('HMGET', job_key(id), 'state', 'started_at', 'finished_at')
    if job[1] == 'succeeded' and job[2] then found[#found + 1] = math.max(0, tonumber(job[3]) - tonumber(job[2])) end
  end
  return found
end

local function running()
  local found = {}
  for _, job in pairs(work) do found[#found + 1] = {nodes = job.nodes, ms = math.max(0, now - job.since)} end
  return found
end

local answer = {took_ms = durations(), running = running(), jobs = {}}
for position = 2, #ARGV do answer.jobs[position - 1] = about(ARGV[position]) end
if head then answer.head = supply(need_of(lane_of(head))) end
return cjson.encode(answer)
