-- Is put after the prelude: what the failure of an attempt means for its job, and for the nodes. docs/nodes.md has the
-- table.

-- After so many failures of nodes in a row, or in all, a job ends, whoever is to blame.
local MOST_IN_A_ROW, MOST_IN_ALL = 10, 50
-- So many in a row cordon a node; and end a job, if it is the job that brings them about.
local IN_A_ROW = 3
-- A job that ran for so long does not end its node by running: what went wrong earlier no longer counts as in a row.
local LONG_RUN_MS = 600000
-- A node that was heard of in this time can take jobs.
local HEARD_MS = 10000
-- A disk that several nodes share may be behind these.
local OF_A_DISK = {['results-unwritable'] = true, ['unreadable-input'] = true, ['invalid-data'] = true, crashed = true}

local function named(nodes)
  local names = {}
  for position, node in ipairs(nodes) do names[position] = '`' .. node .. '`' end
  return (#nodes == 1 and 'Node ' or 'Nodes ') .. table.concat(names, ', ')
end

local function warn(id, message) append(id, get(id, 'attempt'), cjson.encode({kind = 'warning', message = message})) end

-- The nodes that take jobs. Dispatchers have none of the faults of a machine.
local function machines(now)
  local found = {}
  for _, node in ipairs(usable_nodes(HEARD_MS, now)) do
    if not node.holds then found[#found + 1] = node.id end
  end
  return found
end

-- Whether another node met the same a moment ago, because of a disk that both use.
local function is_shared(node, reason, now)
  if not OF_A_DISK[reason] then return false end
  for _, other in ipairs(redis.call('SMEMBERS', PREFIX .. 'nodes')) do
    local fields = redis.call('HMGET', node_key(other), 'failure', 'failed_at')
    if other ~= node and fields[1] == reason and tonumber(fields[2]) + DOUBT_MS > now then return true end
  end
  return false
end

local function cordon_after_failures(id, node, count, why, now)
  for _, other in ipairs(machines(now)) do
    if other ~= node then
      local reason = count .. ' failures in a row'
      redis.call('HSET', node_key(node), 'cordoned', reason, 'cordoned_by', 'failures', 'cordoned_at', text(now))
      warn(id, named({node}) .. ' takes no more jobs, because of ' .. reason .. ', the last one: ' .. why .. ' `ladle node uncordon ' .. node .. '` lets it.')
      return
    end
  end
  warn(id, named({node}) .. ' has had ' .. count .. ' failures in a row. It still takes jobs, because there is no other.')
end

-- Notes a failure of a node. Other nodes are preferred to it for a while.
local function blame(id, node, reason, why)
  local key, now = node_key(node), now_ms()
  local known = redis.call('HMGET', key, 'heartbeat_at', 'dispatches', 'leaving', 'cordoned')
  if not known[1] or known[2] == '1' or known[3] == '1' then return end
  local shared = is_shared(node, reason, now)
  redis.call('HSET', key, 'failure', reason, 'failure_message', why, 'failed_at', text(now), 'missed_at', text(now))
  if shared then return end
  local count = redis.call('HINCRBY', key, 'failures_in_row', 1)
  if count >= IN_A_ROW and (known[4] or '') == '' then cordon_after_failures(id, node, count, why, now) end
end

-- A node is as good as new.
local function forget_failures(node)
  redis.call('HDEL', node_key(node), 'failures_in_row', 'missed_at', 'failure', 'failure_message', 'failed_at')
end

-- The job was to blame for some failures of a node.
local function forgive(node, count)
  local left = tonumber(redis.call('HGET', node_key(node), 'failures_in_row') or 0) - count
  if left > 0 then redis.call('HSET', node_key(node), 'failures_in_row', left) else forget_failures(node) end
  if left < IN_A_ROW and redis.call('HGET', node_key(node), 'cordoned_by') == 'failures' then
    redis.call('HSET', node_key(node), 'cordoned', '', 'cordoned_by', '')
  end
end

-- Other nodes are preferred to it for a while.
local function doubt(node)
  if redis.call('HEXISTS', node_key(node), 'heartbeat_at') == 1 then
    redis.call('HSET', node_key(node), 'missed_at', text(now_ms()))
  end
end

-- Whether the attempt has shown that the job can run.
local function ran_long(id)
  local since = get(id, 'running_since')
  return since and now_ms() - tonumber(since) >= LONG_RUN_MS
end

-- Adds up the nodes that were lost under a job, one attempt after the other. Answers how many attempts, and how often each.
local function add_to_row(id, nodes)
  local row = cjson.decode(get(id, 'lost_row') or '{"attempts":0,"nodes":{}}')
  if ran_long(id) then row = {attempts = 0, nodes = {}} end
  row.attempts = row.attempts + 1
  for _, node in ipairs(nodes) do row.nodes[node] = (row.nodes[node] or 0) + 1 end
  redis.call('HSET', job_key(id), 'lost_row', cjson.encode(row))
  return row.attempts, row.nodes
end

-- Whether the nodes were lost because of the job: three attempts in a row, on three nodes or on all that there are.
local function is_the_jobs_fault(attempts, lost)
  if attempts < IN_A_ROW then return false end
  local different, others = 0, 0
  for _ in pairs(lost) do different = different + 1 end
  for _, node in ipairs(machines(now_ms())) do if not lost[node] then others = others + 1 end end
  return different >= IN_A_ROW or others == 0
end

-- Back to the queue, unless a cancel came while the attempt was `finalizing`. `class` says whose failure it was: the `job`'s
-- counts towards max_failures, a `node`'s does not, and `none` is none. After each failure the wait is twice as long.
local function try_again(id, class, reason, message, backoff_ms)
  if get(id, 'cancel_asked') then
    finish(id, 'cancelled', 'cancelled', 'The job was cancelled.')
    return 'cancelled'
  end
  local failures, in_a_row, in_all = tonumber(get(id, 'failures')), tonumber(get(id, 'node_failures_in_row') or 0), 0
  if class == 'job' then
    failures = redis.call('HINCRBY', job_key(id), 'failures', 1)
    redis.call('HDEL', job_key(id), 'lost_row')
  elseif class == 'node' then
    if ran_long(id) then in_a_row = 0 end
    in_a_row, in_all = in_a_row + 1, redis.call('HINCRBY', job_key(id), 'node_failures', 1)
    redis.call('HSET', job_key(id), 'node_failures_in_row', in_a_row)
  end
  if class == 'job' and failures >= tonumber(get(id, 'max_failures')) then
    finish(id, 'failed', reason, message)
    return 'failed'
  end
  if class == 'node' and (in_a_row >= MOST_IN_A_ROW or in_all >= MOST_IN_ALL) then
    local times = in_a_row >= MOST_IN_A_ROW and in_a_row .. ' times in a row' or in_all .. ' times'
    finish(id, 'failed', reason, message .. ' Nodes have failed under this job ' .. times .. ', so it is not tried again.')
    return 'failed'
  end
  local wait_ms = 0
  if class ~= 'none' then wait_ms = math.min(backoff_ms * 2 ^ (failures + in_a_row - 1), LONGEST_BACKOFF_MS) end
  redis.call('HSET', job_key(id), 'not_before', text(now_ms() + wait_ms))
  release_nodes(id)
  move(id, 'queued', reason, message)
  enqueue(id)
  return 'queued'
end

-- An attempt ended because of some of its nodes.
local function fail_of_nodes(id, nodes, reason, message, backoff_ms)
  for _, node in ipairs(nodes) do blame(id, node, reason, message) end
  return try_again(id, 'node', reason, message, backoff_ms)
end

-- An attempt ended because nodes of it were lost, which a job may bring about: it takes all memory, say.
local function fail_of_lost_nodes(id, nodes, message, backoff_ms)
  local attempts, lost = add_to_row(id, nodes)
  if get(id, 'cancel_asked') or not is_the_jobs_fault(attempts, lost) then
    return fail_of_nodes(id, nodes, 'node-lost', message, backoff_ms)
  end
  -- This time nobody was blamed yet.
  for _, node in ipairs(nodes) do lost[node] = lost[node] - 1 end
  local all = {}
  for node, count in pairs(lost) do
    all[#all + 1] = node
    forgive(node, count)
  end
  table.sort(all)
  finish(id, 'failed', 'node-lost', message .. ' ' .. named(all) .. (#all == 1 and ' was' or ' were') .. ' lost in ' ..
         attempts .. ' attempts in a row, so the job may be what ends the node: it may need more memory than there is.')
  return 'failed'
end
