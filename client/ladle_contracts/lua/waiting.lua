-- What queued jobs wait for. Reads only. ARGV: node life in ms, then numbers of ranks.
-- Answers for each: how many nodes with so many ranks are free, and how many are alive.
local life_ms, now, answer = tonumber(ARGV[1]), now_ms(), {}
for position = 2, #ARGV do
  local alive, free = survey(tonumber(ARGV[position]), life_ms, now)
  answer[#answer + 1] = {#free, alive}
end
return answer
