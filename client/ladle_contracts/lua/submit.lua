-- new -> queued. ARGV: id, owner, spec, priority, nodes, ranks, max_failures, idempotency key or '', body digest, key life in ms,
-- how many queued jobs the owner may have, or '', the name of the result's folder, the fewest nodes, the time limit in
-- seconds or '', the name again if somebody has chosen it, or '', and of the request its `traceparent` and its id, or ''.
-- Answers {'created', id}, {'replayed', id of the first time}, {'conflict', ''}, {'full', ''}, or {'taken', ''} while a job
-- that has not ended has the chosen name.
local id, owner, spec, priority, nodes, ranks, max_failures, key, digest, life_ms, most, output, least, timeout_s, chosen, trace, request = unpack(ARGV)
local idempotency = PREFIX .. 'idempotency:' .. owner .. ':' .. key
if key ~= '' then
  local known = redis.call('HMGET', idempotency, 'job', 'digest')
  if known[1] and redis.call('EXISTS', job_key(known[1])) == 1 then
    if known[2] == digest then return {'replayed', known[1]} end
    return {'conflict', ''}
  end
end
-- The same call again, because its answer was lost on the way.
if redis.call('EXISTS', job_key(id)) == 1 then return {'created', id} end
if most and most ~= '' and redis.call('ZCARD', owner_state_key(owner, 'queued')) >= tonumber(most) then
  return {'full', ''}
end
if chosen and chosen ~= '' then
  local other = redis.call('HGET', NAMES, chosen)
  local state = other and get(other, 'state')
  if state and not TERMINAL[state] then return {'taken', ''} end
  redis.call('HSET', NAMES, chosen, id)
end
if key ~= '' then
  redis.call('HSET', idempotency, 'job', id, 'digest', digest)
  redis.call('PEXPIRE', idempotency, life_ms)
end
local now = text(now_ms())
redis.call('HSET', job_key(id), 'id', id, 'owner', owner, 'spec', spec, 'state', 'queued', 'created_at', now,
           'priority', priority, 'nodes_needed', nodes, 'ranks_needed', ranks, 'max_failures', max_failures,
           'attempt', 0, 'failures', 0, 'nodes', '[]', 'not_before', 0, 'idempotency', key, 'output', output or '',
           'min_nodes', least or nodes, 'timeout_s', timeout_s or '')
if (trace or '') ~= '' then redis.call('HSET', job_key(id), 'trace', trace) end
if (request or '') ~= '' then redis.call('HSET', job_key(id), 'request_id', request) end
store_labels(id)
redis.call('ZADD', PREFIX .. 'jobs', now, id)
redis.call('ZADD', jobs_key(owner), now, id)
move(id, 'queued')
enqueue(id)
return {'created', id}
