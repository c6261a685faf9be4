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

local function job_key(id) return PREFIX .. 'job:' .. id end
local function events_key(id) return job_key(id) .. ':events' end
local function leases_key(id) return job_key(id) .. ':leases' end
local function state_copy_key(id) return job_key(id) .. ':state' end
local function node_key(id) return PREFIX .. 'node:' .. id end
-- The jobs of a dispatcher: a node that hands whole jobs over to something else, such as Slurm.
local function node_jobs_key(id) return node_key(id) .. ':jobs' end
local function jobs_key(owner) return PREFIX .. 'owner:' .. owner .. ':jobs' end
-- Jobs in one state by creation time: of all owners, and of one.
local function state_key(state) return PREFIX .. 'state:' .. state end
local function owner_state_key(owner, state) return PREFIX .. 'owner:' .. owner .. ':state:' .. state end
-- Queued jobs of one need, in the order of the queue.
local function need_key(need) return PREFIX .. 'queue:' .. need end

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

-- How many nodes of how many ranks. Jobs of one need can start at the same times, so each need has a queue of its own
-- beside the queue of all.
local function need_of(id) return get(id, 'nodes_needed') .. 'x' .. get(id, 'ranks_needed') end

-- By priority, then by age.
local function place_of(id) return text(tonumber(get(id, 'created_at')) - tonumber(get(id, 'priority')) * 1e13) end

local function enqueue(id)
  local score = place_of(id)
  redis.call('ZADD', PREFIX .. 'queue', score, id)
  redis.call('ZADD', need_key(need_of(id)), score, id)
  redis.call('SADD', PREFIX .. 'needs', need_of(id))
  redis.call('PUBLISH', PREFIX .. 'wake', id)
end

local function dequeue(id)
  redis.call('ZREM', PREFIX .. 'queue', id)
  redis.call('ZREM', need_key(need_of(id)), id)
end

-- Whether it waits before its next attempt.
local function backs_off(id, now)
  local wait_ms = tonumber(get(id, 'not_before') or 0) - now
  return wait_ms > 0 and wait_ms <= LONGEST_BACKOFF_MS
end

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

local function names_of(nodes)
  table.sort(nodes, best_first)
  local names = {}
  for position, node in ipairs(nodes) do names[position] = node.id end
  return names
end

-- What a job of so many ranks per node can have: how many such nodes are alive, those of them that are free, how many
-- dispatchers are alive, and those that have room. The best ones come first.
local function survey(ranks, life_ms, now)
  local found, free, roomy = {alive = 0, dispatchers = 0, room = 0}, {}, {}
  for _, node in ipairs(redis.call('SMEMBERS', PREFIX .. 'nodes')) do
    local fields = redis.call('HMGET', node_key(node), 'heartbeat_at', 'ranks', 'job', 'leaving', 'missed_at',
                              'dispatches', 'holds', 'cordoned')
    local dispatches, cordoned = fields[6] == '1', fields[8] and fields[8] ~= ''
    if fields[1] and math.abs(now - tonumber(fields[1])) < life_ms and fields[4] ~= '1' and not cordoned
       and (dispatches or tonumber(fields[2]) >= ranks) then
      local room = room_of(node, dispatches and (fields[7] or 1), fields[3])
      local missed_at = tonumber(fields[5] or 0)
      local entry = {id = node, room = room, doubt = missed_at + DOUBT_MS > now and missed_at or 0}
      if dispatches then
        found.dispatchers = found.dispatchers + 1
        found.room = found.room + math.max(room, 0)
        if room > 0 then roomy[#roomy + 1] = entry end
      else
        found.alive = found.alive + 1
        if room > 0 then free[#free + 1] = entry end
      end
    end
  end
  found.free, found.roomy = names_of(free), names_of(roomy)
  return found
end

-- Whether a job of so many nodes could start if no other job had any.
local function is_possible(found, needed) return found.alive >= needed or found.dispatchers > 0 end

-- The nodes that such a job gets now: so many free ones, or else one dispatcher, or nil.
local function nodes_for(found, needed)
  if #found.free >= needed then
    local chosen = {}
    for position = 1, needed do chosen[position] = found.free[position] end
    return chosen
  end
  return found.roomy[1] and {found.roomy[1]}
end

-- Who has the job: a dispatcher has it beside others.
local function reserve(node, id)
  if redis.call('HGET', node_key(node), 'dispatches') == '1' then
    redis.call('SADD', node_jobs_key(node), id)
  else
    redis.call('HSET', node_key(node), 'job', id)
  end
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

local function finish(id, state, reason, message)
  local now = text(now_ms())
  redis.call('HSET', job_key(id), 'finished_at', now)
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
  if job[2] and job[2] ~= '' then
    local idempotency = PREFIX .. 'idempotency:' .. owner .. ':' .. job[2]
    if redis.call('HGET', idempotency, 'job') == id then redis.call('DEL', idempotency) end
  end
  for _, key in ipairs({PREFIX .. 'jobs', jobs_key(owner), PREFIX .. 'finished', PREFIX .. 'finished:traces'}) do
    redis.call('ZREM', key, id)
  end
  for _, state in ipairs(STATES) do
    redis.call('ZREM', state_key(state), id)
    redis.call('ZREM', owner_state_key(owner, state), id)
  end
  redis.call('UNLINK', job_key(id), job_key(id) .. ':progress', events_key(id), job_key(id) .. ':log', leases_key(id),
             state_copy_key(id))
end

-- Whether the caller is still the elected scheduler.
local function is_elected(fence) return redis.call('GET', PREFIX .. 'scheduler:fence') == fence end

-- Whether this attempt is still the current one.
local function is_current(id, attempt)
  local state = get(id, 'state')
  return state and not TERMINAL[state] and state ~= 'queued' and get(id, 'attempt') == attempt
end
