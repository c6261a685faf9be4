-- Is put before every script. All arguments are in ARGV. The keys are built here, as in ladle_contracts/keys.py.
-- Times are in milliseconds of the Redis server's clock.

-- How long a deleted job's end is known, for nodes that find files of it.
local DELETED_LIFE_S = 604800
local TERMINAL = {succeeded = true, failed = true, cancelled = true}
local STATES = {'queued', 'scheduled', 'running', 'finalizing', 'cancelling', 'succeeded', 'failed', 'cancelled'}
-- No backoff is longer. A job whose backoff seems to be was put back before Redis' clock was.
local LONGEST_BACKOFF_MS = 60000
-- A node that missed a call is used only if there is no other, for this long.
local DOUBT_MS = 300000
-- One point of priority counts as so much time in the queue.
local POINT_MS = 600000
-- A job that has been in the queue for so long takes `min_nodes` nodes if no more are free.
local PATIENCE_MS = 120000
-- The id of the job that is next, while it waits for nodes.
local HEAD = PREFIX .. 'head'
-- Owner -> the number of the last start of a job of theirs: of those in turn, and of all, in gaps too.
local SERVED, SERVED_ALL = PREFIX .. 'served', PREFIX .. 'served:all'
-- Name of a result's folder that somebody has chosen -> the newest job with it.
local NAMES = PREFIX .. 'names'

local function job_key(id) return PREFIX .. 'job:' .. id end
local function events_key(id) return job_key(id) .. ':events' end
local function leases_key(id) return job_key(id) .. ':leases' end
-- Address -> how far the call of it is that tells of the job's end.
local function webhooks_key(id) return job_key(id) .. ':webhooks' end
local function state_copy_key(id) return job_key(id) .. ':state' end
local function node_key(id) return PREFIX .. 'node:' .. id end
-- The jobs of a dispatcher: a node that hands whole jobs over to something else, such as Slurm.
local function node_jobs_key(id) return node_key(id) .. ':jobs' end
local function jobs_key(owner) return PREFIX .. 'owner:' .. owner .. ':jobs' end
-- Jobs in one state by creation time: of all owners, and of one.
local function state_key(state) return PREFIX .. 'state:' .. state end
local function owner_state_key(owner, state) return PREFIX .. 'owner:' .. owner .. ':state:' .. state end
-- Queued jobs of one owner and one need, in the order of their places.
local function lane_key(lane) return PREFIX .. 'lane:' .. lane end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function text(number) return string.format('%.0f', number) end

local function get(id, field) return redis.call('HGET', job_key(id), field) end

-- Appends to the job's event stream. `body` is the JSON of an EventBody.
local function append(id, attempt, body)
  redis.call('XADD', events_key(id), 'MAXLEN', '~', 100000, '*',
             'attempt', attempt, 'time', text(now_ms()), 'body', body)
end

-- The only place where a state changes, so that the indexes always agree with the jobs.
local function move(id, state, reason, message)
  local job = redis.call('HMGET', job_key(id), 'owner', 'created_at', 'state')
  if job[3] then
    redis.call('ZREM', state_key(job[3]), id)
    redis.call('ZREM', owner_state_key(job[1], job[3]), id)
  end
  redis.call('ZADD', state_key(state), job[2], id)
  redis.call('ZADD', owner_state_key(job[1], state), job[2], id)
  redis.call('HSET', job_key(id), 'state', state, 'reason', reason or '', 'message', message or '')
  local body = {kind = 'state', state = state}
  if reason and reason ~= '' then body.reason = reason end
  if message and message ~= '' then body.message = message end
  append(id, get(id, 'attempt'), cjson.encode(body))
end

-- Jobs of one owner and one need can start at the same times, so they have a queue of their own beside the queue of all.
-- Time limits are taken by powers of two, so that there are few of them.
local function lane_of(id)
  local job = redis.call('HMGET', job_key(id), 'nodes_needed', 'min_nodes', 'ranks_needed', 'timeout_s', 'owner')
  local timeout_s, limit = tonumber(job[4] or ''), 0
  if timeout_s then limit = 1 + math.ceil(math.log(math.max(timeout_s, 1)) / math.log(2)) end
  return string.format('%d:%d:%d:%d:%s', job[1], job[2] or job[1], job[3], limit, job[5])
end

local function need_of(lane)
  local nodes, least, ranks, _, owner = lane:match('^(%d+):(%d+):(%d+):(%d+):(.*)$')
  return {nodes = tonumber(nodes), least = tonumber(least), ranks = tonumber(ranks), owner = owner}
end

-- When it was submitted, or earlier for a high priority. So a job is overtaken only by what comes within a fixed time
-- after it.
local function place_of(id)
  return text(tonumber(get(id, 'created_at')) - tonumber(get(id, 'priority')) * POINT_MS)
end

local function put_into_queue(id)
  local place, lane = place_of(id), lane_of(id)
  redis.call('ZADD', PREFIX .. 'queue', place, id)
  redis.call('ZADD', lane_key(lane), place, id)
  redis.call('SADD', PREFIX .. 'lanes', lane)
end

local function enqueue(id)
  put_into_queue(id)
  redis.call('HSET', job_key(id), 'queued_at', text(now_ms()))
  redis.call('PUBLISH', PREFIX .. 'wake', id)
end

local function take_from_lane(id, lane)
  redis.call('ZREM', PREFIX .. 'queue', id)
  redis.call('ZREM', lane_key(lane), id)
  if redis.call('EXISTS', lane_key(lane)) == 0 then redis.call('SREM', PREFIX .. 'lanes', lane) end
  if redis.call('GET', HEAD) == id then redis.call('DEL', HEAD) end
end

local function dequeue(id) take_from_lane(id, lane_of(id)) end

-- Whether it waits before its next attempt.
local function is_backing_off(not_before, now)
  local wait_ms = tonumber(not_before or 0) - now
  return wait_ms > 0 and wait_ms <= LONGEST_BACKOFF_MS
end

local function backs_off(id, now) return is_backing_off(get(id, 'not_before'), now) end

-- How many more jobs a node takes. A reservation whose job no longer has any nodes is a left-over.
local function room_of(node, holds, job)
  if holds then
    return tonumber(holds) - #redis.call('SINTER', node_jobs_key(node), PREFIX .. 'active')
  end
  return job and job ~= '' and redis.call('SISMEMBER', PREFIX .. 'active', job) == 1 and 0 or 1
end

-- Two that do not answer take turns, so that a job does not wait for one of them for ever.
local function best_first(one, other)
  if one.doubt ~= other.doubt then return one.doubt < other.doubt end
  if one.room ~= other.room then return one.room > other.room end
  return one.id < other.id
end

-- The nodes that may be used, the best ones first.
local function usable_nodes(life_ms, now)
  local found = {}
  for _, node in ipairs(redis.call('SMEMBERS', PREFIX .. 'nodes')) do
    local fields = redis.call('HMGET', node_key(node), 'heartbeat_at', 'ranks', 'job', 'leaving', 'missed_at',
                              'dispatches', 'holds', 'cordoned')
    local is_cordoned = fields[8] and fields[8] ~= ''
    if fields[1] and math.abs(now - tonumber(fields[1])) < life_ms and fields[4] ~= '1' and not is_cordoned then
      local holds, missed_at = fields[6] == '1' and tonumber(fields[7] or 1), tonumber(fields[5] or 0)
      found[#found + 1] = {
        id = node, ranks = tonumber(fields[2]), holds = holds, job = fields[3], room = room_of(node, holds, fields[3]),
        doubt = missed_at + DOUBT_MS > now and missed_at or 0,
      }
    end
  end
  table.sort(found, best_first)
  return found
end

-- What a job of so many ranks per node can have of them: how many nodes there are, and those that are free; how many jobs
-- dispatchers hold at the most, and those that have room. With `most`, only nodes of at most so many ranks.
local function survey(nodes, ranks, most)
  local found = {alive = 0, free = {}, holds = 0, room = 0, roomy = {}}
  for _, node in ipairs(nodes) do
    if node.holds and not most then
      found.holds, found.room = found.holds + node.holds, found.room + math.max(node.room, 0)
      if node.room > 0 then found.roomy[#found.roomy + 1] = node.id end
    elseif not node.holds and node.ranks >= ranks and (not most or node.ranks <= most) then
      found.alive = found.alive + 1
      if node.room > 0 then found.free[#found.free + 1] = node.id end
    end
  end
  return found
end

-- Whether a job of at least so many nodes could start if no other job had any.
local function is_possible(found, least) return found.alive >= least or found.holds > 0 end

-- How many nodes it takes at least at the moment: all that it asks for, until it has waited or so many are not there.
local function least_now(need, found, queued_at, now)
  local is_patient = not queued_at or math.abs(now - tonumber(queued_at)) < PATIENCE_MS
  if found.alive >= need.nodes and is_patient then return need.nodes end
  return need.least
end

-- The nodes that it gets now: as many as it asks for, or one dispatcher, or at least `least` nodes, or nil.
local function nodes_for(need, found, least)
  local count = math.min(#found.free, need.nodes)
  if count < need.nodes and found.roomy[1] then return {found.roomy[1]} end
  if count < least then return nil end
  local chosen = {}
  for position = 1, count do chosen[position] = found.free[position] end
  return chosen
end

-- The jobs that have nodes: whose they are, how many nodes, and when their time is over at the latest.
local function jobs_at_work(now)
  local found = {}
  for _, id in ipairs(redis.call('SMEMBERS', PREFIX .. 'active')) do
    local job = redis.call('HMGET', job_key(id), 'owner', 'took', 'in_gap', 'timeout_s', 'ran_ms', 'running_since', 'nodes')
    if job[1] then
      local since, limit = tonumber(job[6] or now), tonumber(job[4] or '')
      local nodes = cjson.decode(job[7] or '[]')
      found[id] = {
        owner = job[1], took = tonumber(job[2] or #nodes), in_gap = job[3] == '1', since = since, nodes = #nodes,
        over_at = limit and since + limit * 1000 - tonumber(job[5] or 0) or math.huge,
      }
    end
  end
  return found
end

-- Owner -> how many nodes they have. Those of a job in a gap count for gaps only.
local function nodes_in_use(work, with_gaps)
  local used = {}
  for _, job in pairs(work) do
    if with_gaps or not job.in_gap then used[job.owner] = (used[job.owner] or 0) + job.took end
  end
  return used
end

-- Gives the job to a node. A dispatcher has it beside others. Answers whether it is one.
local function reserve(node, id)
  local dispatches = redis.call('HGET', node_key(node), 'dispatches') == '1'
  if dispatches then
    redis.call('SADD', node_jobs_key(node), id)
  else
    redis.call('HSET', node_key(node), 'job', id)
  end
  return dispatches
end

-- How long its attempts have run so far, in ms: `ran_ms`.
local function add_running_time(id)
  local since = get(id, 'running_since')
  if not since then return end
  redis.call('HINCRBY', job_key(id), 'ran_ms', text(math.max(0, now_ms() - tonumber(since))))
  redis.call('HDEL', job_key(id), 'running_since')
end

-- Whether a node gives back the jobs that it has: it shuts down, or is drained at once.
local function hands_back(node)
  local fields = redis.call('HMGET', node_key(node), 'leaving', 'draining')
  return fields[1] == '1' or fields[2] == 'now'
end

local function release_nodes(id)
  add_running_time(id)
  for _, node in ipairs(cjson.decode(get(id, 'nodes'))) do
    if redis.call('HGET', node_key(node), 'job') == id then
      redis.call('HSET', node_key(node), 'job', '')
    end
    redis.call('SREM', node_jobs_key(node), id)
  end
  redis.call('DEL', leases_key(id))
  redis.call('SREM', PREFIX .. 'active', id)
  redis.call('PUBLISH', PREFIX .. 'wake', id)
end

-- Adds to a number that only grows: what the service tells Prometheus.
local function count(name, more) redis.call('HINCRBYFLOAT', PREFIX .. 'counts', name, more) end

local function finish(id, state, reason, message)
  local now = text(now_ms())
  redis.call('HSET', job_key(id), 'finished_at', now)
  count('ended ' .. state .. ' ' .. (reason or ''), 1)
  -- Whoever wants to know of the end is told by the scheduler.
  redis.call('ZADD', PREFIX .. 'webhooks', now, id)
  redis.call('ZADD', PREFIX .. 'finished', now, id)
  redis.call('ZADD', PREFIX .. 'finished:traces', now, id)
  dequeue(id)
  release_nodes(id)
  redis.call('UNLINK', state_copy_key(id))
  move(id, state, reason, message)
end

local function labels_of(id) return cjson.decode(get(id, 'spec')).labels or {} end

-- The labels as fields of the job's hash, where listings compare them. `labelled` says that they are there.
local function store_labels(id)
  for name, value in pairs(labels_of(id)) do redis.call('HSET', job_key(id), 'label:' .. name, value) end
  redis.call('HSET', job_key(id), 'labelled', 1)
end

-- Removes a job that has ended from Redis. Its idempotency key may by now belong to a newer job.
local function forget(id)
  local job = redis.call('HMGET', job_key(id), 'owner', 'idempotency', 'state', 'spec', 'output')
  local owner = job[1] or ''
  if job[4] then
    local output = cjson.decode(job[4]).output
    -- Jobs of earlier versions have no name of their own, but that in the spec or their id.
    local name = job[5] and job[5] ~= '' and job[5] or type(output) == 'table' and type(output.name) == 'string' and output.name or id
    local tombstone = PREFIX .. 'deleted:' .. id
    redis.call('HSET', tombstone, 'state', job[3], 'output', name)
    redis.call('EXPIRE', tombstone, DELETED_LIFE_S)
  end
  if job[5] and redis.call('HGET', NAMES, job[5]) == id then redis.call('HDEL', NAMES, job[5]) end
  if job[2] and job[2] ~= '' then
    local idempotency = PREFIX .. 'idempotency:' .. owner .. ':' .. job[2]
    if redis.call('HGET', idempotency, 'job') == id then redis.call('DEL', idempotency) end
  end
  for _, key in ipairs({PREFIX .. 'jobs', jobs_key(owner), PREFIX .. 'finished', PREFIX .. 'finished:traces',
                        PREFIX .. 'webhooks'}) do
    redis.call('ZREM', key, id)
  end
  for _, state in ipairs(STATES) do
    redis.call('ZREM', state_key(state), id)
    redis.call('ZREM', owner_state_key(owner, state), id)
  end
  redis.call('UNLINK', job_key(id), job_key(id) .. ':progress', events_key(id), job_key(id) .. ':log', leases_key(id),
             state_copy_key(id), webhooks_key(id))
end

-- Whether the caller is still the elected scheduler.
local function is_elected(fence) return redis.call('GET', PREFIX .. 'scheduler:fence') == fence end

-- Whether this attempt is still the current one.
local function is_current(id, attempt)
  local state = get(id, 'state')
  return state and not TERMINAL[state] and state ~= 'queued' and get(id, 'attempt') == attempt
end
