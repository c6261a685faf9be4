-- A copy of the current attempt's resume state, for nodes that do not share the folder of results.
-- ARGV: id, attempt, 'all' (whatever was here before goes) or 'some', then names of files with their content in base64; an
-- empty one is a file that is gone. Answers 'ok' or 'lost'.
local id, attempt, how_much = ARGV[1], ARGV[2], ARGV[3]
if not is_current(id, attempt) then return 'lost' end
if how_much == 'all' then redis.call('UNLINK', state_copy_key(id)) end
for position = 4, #ARGV, 2 do
  if ARGV[position + 1] == '' then
    redis.call('HDEL', state_copy_key(id), ARGV[position])
  else
    redis.call('HSET', state_copy_key(id), ARGV[position], ARGV[position + 1])
  end
end
-- No name of a file begins with a slash.
redis.call('HSET', state_copy_key(id), '/attempt', attempt)
return 'ok'
