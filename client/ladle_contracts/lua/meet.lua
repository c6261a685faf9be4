-- A node of several says that it is ready for its ranks, and asks whether the others are. It renews its lease.
-- ARGV: id, attempt, node, lease in ms, the node's place as JSON.
-- Answers {'ok', place...} in the order of the nodes, {'wait', node...} with those that are late (a node that still fetches
-- far files is not), or the answer of
-- `renew` that ends the attempt: {'cancel'}, {'release'} or {'lost'}.
local id, attempt, node, lease_ms, place = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
if not is_current(id, attempt) or redis.call('HEXISTS', leases_key(id), node) == 0 then return {'lost'} end
redis.call('HSET', leases_key(id), node, text(now_ms() + lease_ms))
if get(id, 'state') == 'cancelling' then return {'cancel'} end
if hands_back(node) then return {'release'} end
-- With the attempt, because the places of earlier ones are still there.
local mark = attempt .. ' '
redis.call('HSET', job_key(id), 'place:' .. node, mark .. place)
local places, late, all = {'ok'}, {'wait'}, true
for _, name in ipairs(cjson.decode(get(id, 'nodes'))) do
  local found = get(id, 'place:' .. name)
  if found and found:sub(1, #mark) == mark then
    places[#places + 1] = found:sub(#mark + 1)
  else
    all = false
    if get(id, 'fetching:' .. name) ~= attempt then late[#late + 1] = name end
  end
end
return all and places or late
