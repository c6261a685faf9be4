-- A node reports the end of an attempt. ARGV: id, attempt, outcome, reason, message, result JSON, log tail JSON, backoff in ms,
-- and after 'node-failed' the nodes that failed, after 'crashed' those that may have to do with it.
-- Outcomes: 'succeeded'; 'failed' (trying again would not help); 'crashed' (counts as a failure, and is tried again);
-- 'node-failed' (the failure of a node, and not of the job; tried again, counts for the node); 'released' (the node hands
-- the job back; tried again, does not count). A cancelled job ends as cancelled with any outcome.
-- Answers the new state, or 'lost'.
local id, attempt, outcome, reason, message, result, log_tail, backoff_ms = unpack(ARGV)
if not is_current(id, attempt) then return 'lost' end
if get(id, 'state') == 'cancelling' or (outcome ~= 'succeeded' and get(id, 'cancel_asked')) then
  finish(id, 'cancelled', 'cancelled', 'The job was cancelled.')
  return 'cancelled'
end
if outcome == 'succeeded' then
  redis.call('HSET', job_key(id), 'result', result)
  for _, node in ipairs(cjson.decode(get(id, 'nodes'))) do forget_failures(node) end
  finish(id, 'succeeded')
  return 'succeeded'
end
redis.call('HSET', job_key(id), 'log_tail', log_tail)
if outcome == 'failed' then
  finish(id, 'failed', reason, message)
  return 'failed'
end
if outcome == 'node-failed' then
  return fail_of_nodes(id, {unpack(ARGV, 9)}, reason, message, tonumber(backoff_ms))
end
for position = 9, #ARGV do if outcome == 'crashed' then doubt(ARGV[position]) end end
return try_again(id, outcome == 'crashed' and 'job' or 'none', reason, message, tonumber(backoff_ms))
