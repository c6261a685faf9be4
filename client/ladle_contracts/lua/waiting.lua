-- What queued jobs wait for. Reads only. ARGV: node life in ms, then numbers of ranks.
-- Answers for each: how many nodes with so many ranks are free, how many are alive, how many more jobs the dispatchers take,
-- and how many dispatchers are alive.
local life_ms, now, answer = tonumber(ARGV[1]), now_ms(), {}
for position = 2, #ARGV do
  local found = survey(tonumber(ARGV[position]), life_ms, now)
  answer[#answer + 1] = {#found.free, found.alive, found.room, found.dispatchers}
end
return answer
