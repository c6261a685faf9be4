-- queued -> cancelled; scheduled, running -> cancelling; other states do not change. ARGV: id. Answers the state.
local id = ARGV[1]
local state = get(id, 'state')
if not state then return '' end
if state == 'queued' then
  finish(id, 'cancelled', 'cancelled', 'The job was cancelled.')
elseif state == 'scheduled' or state == 'running' then
  move(id, 'cancelling')
  redis.call('PUBLISH', PREFIX .. 'wake', id)
end
return get(id, 'state')
