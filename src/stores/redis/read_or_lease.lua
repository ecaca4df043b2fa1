-- Reads the copy of a session, or leaves a lease where there is none that may be believed.
-- KEYS[1] session key
-- ARGV    format version, life of the server as the reader knows it, nonce of a new lease, its life in ms, and until when
--         (microseconds) copies that were read are not believed
-- Returns {1, session as JSON, t0, end, now, seal} of a copy, times in microseconds, or
--         {0, nonce, life of the lease, t0, why a copy was not believed}
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.pcall('HMGET', KEYS[1], 'version', 'run', 't0', 'end', 'session', 'seal', 'lease')
local why = ''
if found.err then -- Not a hash: not ours. It is replaced.
  redis.call('DEL', KEYS[1])
  why = 'unreadable'
elseif found[1] then
  local t0, ends = tonumber(found[3] or nil), tonumber(found[4] or nil)
  if found[1] ~= ARGV[1] then
    why = 'version'
  elseif found[2] ~= ARGV[2] then
    why = 'life'
  elseif not (t0 and ends and found[5]) then
    why = 'unreadable'
  elseif not (ends > now) then
    why = 'ended'
  elseif not (t0 > tonumber(ARGV[5])) then
    why = 'news'
  else
    return {1, found[5], found[3], found[4], string.format('%.0f', now), found[6] or ''}
  end
elseif found[7] and found[2] and found[3] then -- A lease stands; whoever comes later may share it, but not prolong it.
  return {0, found[7], found[2], found[3], ''}
end
local t0 = string.format('%.0f', now)
-- HSET comes first: once a script has written, Redis lets it go on beyond maxmemory.
redis.call('HSET', KEYS[1], 'lease', ARGV[3], 'run', ARGV[2], 't0', t0)
redis.call('HDEL', KEYS[1], 'version', 'end', 'session', 'seal')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {0, ARGV[3], ARGV[2], t0, why}
