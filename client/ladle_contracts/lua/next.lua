-- The queued job that may be scheduled now. ARGV: node life in ms. Answers its id or ''. Costs the same for a queue of any
-- length: it looks at the head of each need's queue.
-- Strictly in order: a job does not overtake an earlier one whose nodes have other jobs. It does overtake one that needs
-- more nodes than are alive.
local life_ms, now = tonumber(ARGV[1]), now_ms()

local function head(need)
  local position = 0
  while true do
    local found = redis.call('ZRANGE', need_key(need), position, position, 'WITHSCORES')
    if not found[1] or not backs_off(found[1], now) then return found[1], tonumber(found[2]) end
    position = position + 1
  end
end

local needs, in_queues = redis.call('SMEMBERS', PREFIX .. 'needs'), 0
for _, need in ipairs(needs) do in_queues = in_queues + redis.call('ZCARD', need_key(need)) end
if in_queues ~= redis.call('ZCARD', PREFIX .. 'queue') then
  -- An earlier version, which knows only the queue of all, has added or removed jobs.
  for _, need in ipairs(needs) do redis.call('DEL', need_key(need)) end
  for _, id in ipairs(redis.call('ZRANGE', PREFIX .. 'queue', 0, -1)) do
    if get(id, 'state') == 'queued' then enqueue(id) else redis.call('ZREM', PREFIX .. 'queue', id) end
  end
  needs = redis.call('SMEMBERS', PREFIX .. 'needs')
end
table.sort(needs)
local first, first_score, may_start = '', math.huge, false
for _, need in ipairs(needs) do
  local id, score = head(need)
  if id and score <= first_score then
    local nodes, ranks = need:match('^(%d+)x(%d+)$')
    local found = survey(tonumber(ranks), life_ms, now)
    if is_possible(found, tonumber(nodes)) and (score < first_score or id < first) then
      first, first_score, may_start = id, score, nodes_for(found, tonumber(nodes)) ~= nil
    end
  end
end
return may_start and first or ''
