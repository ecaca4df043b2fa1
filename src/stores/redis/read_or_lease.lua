-- Reads the copy of a session, or leaves a lease where there is none that may be believed.
-- KEYS[1] session key
-- ARGV    format version, run id of the reader's connection, nonce of a new lease, life of a lease in ms, and until when
--         (microseconds) copies that were read are not believed
-- Returns {1, session as JSON} or {0, nonce, run id of the lease, t0 in microseconds}
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.pcall('HMGET', KEYS[1], 'version', 'run', 'end', 'session', 'lease', 't0')
if found.err then -- Not a hash: not ours. It is replaced.
  redis.call('DEL', KEYS[1])
  found = {}
end
local ends, t0 = tonumber(found[3] or nil), tonumber(found[6] or nil)
if found[1] == ARGV[1] and found[2] == ARGV[2] and ends and ends > now and t0 and t0 > tonumber(ARGV[5]) and found[4] then
  return {1, found[4]}
end
if found[5] and found[2] and found[6] then -- A lease stands; whoever comes later may share it, but not prolong it.
  return {0, found[5], found[2], found[6]}
end
t0 = string.format('%.0f', now)
-- HSET comes first: once a script has written, Redis lets it go on beyond maxmemory.
redis.call('HSET', KEYS[1], 'lease', ARGV[3], 'run', ARGV[2], 't0', t0)
redis.call('HDEL', KEYS[1], 'version', 'end', 'session')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {0, ARGV[3], ARGV[2], t0}
