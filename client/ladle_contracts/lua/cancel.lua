-- queued -> cancelled; scheduled, running -> cancelling. In `finalizing` it is too late for this attempt, which may have
-- moved its result already: if it succeeds, so does the job; if it does not, the job is cancelled and not tried again.
-- Other states do not change. ARGV: id. Answers the state.
local id = ARGV[1]
local state = get(id, 'state')
if not state then return '' end
if state == 'queued' then
  finish(id, 'cancelled', 'cancelled', 'The job was cancelled.')
elseif state == 'scheduled' or state == 'running' then
  move(id, 'cancelling')
  redis.call('PUBLISH', PREFIX .. 'wake', id)
elseif state == 'finalizing' then
  redis.call('HSET', job_key(id), 'cancel_asked', 1)
end
return get(id, 'state')
