-- One stretch of a listing, newest first. Reads only.
-- ARGV: owner or '', state or '', creation time in ms or '' and id of the job to begin after, how many jobs to find, how
-- many bytes, how many jobs to look at, then names and values of labels.
-- Answers {how it ended, creation time and id of the last job that it looked at, bytes}, then JSON of [fields, progress] for
-- each job that was found. It ended at the 'end' of the listing, because the page is 'full', or because it has looked at enough
-- jobs and there may be 'more'.
local BATCH = 200
local owner, state, after_ms, after_id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local most, most_bytes, most_looks = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local fields, values = {'state', 'labelled'}, {}
for position = 8, #ARGV, 2 do
  fields[#fields + 1] = 'label:' .. ARGV[position]
  values[#values + 1] = ARGV[position + 1]
end

-- Indexes hold the jobs of an earlier version only when the scheduler has put them there.
local index = PREFIX .. 'jobs'
local has_indexes = state ~= '' and redis.call('EXISTS', PREFIX .. 'indexed') == 1
if owner ~= '' then index = has_indexes and owner_state_key(owner, state) or jobs_key(owner)
elseif has_indexes then index = state_key(state) end

local function matches(id)
  local job = redis.call('HMGET', job_key(id), unpack(fields))
  if not job[1] or (state ~= '' and job[1] ~= state) then return false end
  local labels = #values > 0 and job[2] ~= '1' and labels_of(id)
  for position, value in ipairs(values) do
    local own = job[position + 2]
    if labels then own = labels[ARGV[6 + 2 * position]] end
    if own ~= value then return false end
  end
  return true
end

-- As one text, because the client takes long to read many small ones.
local function record_of(id)
  local record, all = {}, redis.call('HGETALL', job_key(id))
  for position = 1, #all, 2 do
    if string.sub(all[position], 1, 6) ~= 'label:' then record[all[position]] = all[position + 1] end
  end
  return cjson.encode({record, redis.call('HGET', job_key(id) .. ':progress', 'json') or ''})
end

local start = 0
if after_ms ~= '' then
  local rank = redis.call('ZREVRANK', index, after_id)
  start = rank and rank + 1 or redis.call('ZCOUNT', index, '(' .. after_ms, '+inf')
end
local found, bytes, looks = {{'more', after_ms, after_id, 0}}, 0, 0
while true do
  local batch = redis.call('ZREVRANGE', index, start, start + BATCH - 1, 'WITHSCORES')
  for position = 1, #batch, 2 do
    local id, created = batch[position], batch[position + 1]
    if looks == most_looks then return found end
    looks = looks + 1
    -- The job to begin after has left the index. Of those of the same millisecond, some were before it.
    if not (created == after_ms and id >= after_id) and matches(id) then
      if #found > most or bytes >= most_bytes then
        found[1][1] = 'full'
        return found
      end
      local record = record_of(id)
      bytes = bytes + #record
      found[#found + 1], found[1][4] = record, bytes
    end
    found[1][2], found[1][3] = created, id
  end
  if #batch < 2 * BATCH then
    found[1][1] = 'end'
    return found
  end
  start = start + BATCH
end
