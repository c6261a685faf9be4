-- running -> finalizing: from here on a cancel comes too late. ARGV: id, attempt. Answers 'ok', 'cancel' or 'lost'.
local id, attempt = ARGV[1], ARGV[2]
if not is_current(id, attempt) then return 'lost' end
local state = get(id, 'state')
if state == 'cancelling' then return 'cancel' end
if state == 'running' then move(id, 'finalizing') end
return 'ok'
