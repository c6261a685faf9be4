-- Is put before every script. All arguments are in ARGV. The keys are built here, as in ladle_contracts/keys.py.
-- Times are in milliseconds of the Redis server's clock.

local TERMINAL = {succeeded = true, failed = true, cancelled = true}

local function job_key(id) return PREFIX .. 'job:' .. id end
local function events_key(id) return job_key(id) .. ':events' end
local function leases_key(id) return job_key(id) .. ':leases' end
local function node_key(id) return PREFIX .. 'node:' .. id end

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

local function move(id, state, reason, message)
  redis.call('HSET', job_key(id), 'state', state, 'reason', reason or '', 'message', message or '')
  local body = {kind = 'state', state = state}
  if reason and reason ~= '' then body.reason = reason end
  if message and message ~= '' then body.message = message end
  append(id, get(id, 'attempt'), cjson.encode(body))
end

local function enqueue(id)
  local score = tonumber(get(id, 'created_at')) - tonumber(get(id, 'priority')) * 1e13
  redis.call('ZADD', PREFIX .. 'queue', text(score), id)
  redis.call('PUBLISH', PREFIX .. 'wake', id)
end

local function release_nodes(id)
  for _, node in ipairs(cjson.decode(get(id, 'nodes'))) do
    if redis.call('HGET', node_key(node), 'job') == id then
      redis.call('HSET', node_key(node), 'job', '')
    end
  end
  redis.call('DEL', leases_key(id))
  redis.call('SREM', PREFIX .. 'active', id)
  redis.call('PUBLISH', PREFIX .. 'wake', id)
end

local function finish(id, state, reason, message)
  redis.call('HSET', job_key(id), 'finished_at', text(now_ms()), 'waiting_for', '')
  redis.call('ZREM', PREFIX .. 'queue', id)
  release_nodes(id)
  move(id, state, reason, message)
end

-- Back to the queue, unless a cancel came while the attempt was `finalizing`. If the attempt `failed`, it counts towards
-- max_failures, and the wait doubles each time.
local function try_again(id, failed, reason, message, backoff_ms)
  if get(id, 'cancel_asked') then
    finish(id, 'cancelled', 'cancelled', 'The job was cancelled.')
    return 'cancelled'
  end
  local failures = tonumber(get(id, 'failures'))
  if failed then
    failures = failures + 1
    redis.call('HSET', job_key(id), 'failures', failures)
    if failures >= tonumber(get(id, 'max_failures')) then
      finish(id, 'failed', reason, message)
      return 'failed'
    end
  end
  local wait_ms = 0
  if failed then wait_ms = backoff_ms * 2 ^ (failures - 1) end
  redis.call('HSET', job_key(id), 'not_before', text(now_ms() + wait_ms))
  release_nodes(id)
  move(id, 'queued', reason, message)
  enqueue(id)
  return 'queued'
end

-- Whether this attempt is still the current one.
local function is_current(id, attempt)
  local state = get(id, 'state')
  return state and not TERMINAL[state] and state ~= 'queued' and get(id, 'attempt') == attempt
end
