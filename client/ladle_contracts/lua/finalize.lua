-- running -> finalizing: from now on the job can no longer be cancelled. ARGV: id, attempt. Answers 'ok', 'cancel' or 'lost'.
local id, attempt = ARGV[1], ARGV[2]
if not is_current(id, attempt) then return 'lost' end
local state = get(id, 'state')
if state == 'cancelling' then return 'cancel' end
if state == 'running' then move(id, 'finalizing') end
return 'ok'
