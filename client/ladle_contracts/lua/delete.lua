-- Deletes a job that has ended. ARGV: id. Answers 'ok', or the state of a job that has not ended.
local id = ARGV[1]
local state = get(id, 'state')
if state and not TERMINAL[state] then return state end
forget(id)
return 'ok'
