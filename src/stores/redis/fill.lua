-- Puts a copy where its lease still stands. Whatever happened to the token meanwhile has removed the lease.
-- KEYS[1] session key
-- ARGV    nonce, format version, life of the lease, its t0 and the end of life in microseconds, session as JSON, seal
-- Returns 1 if the copy was accepted
local lease = redis.pcall('HGET', KEYS[1], 'lease')
if lease ~= ARGV[1] then
  return 0
end
-- HSET comes first: once a script has written, Redis lets it go on beyond maxmemory.
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'run', ARGV[3], 't0', ARGV[4], 'end', ARGV[5], 'session', ARGV[6], 'seal', ARGV[7])
redis.call('HDEL', KEYS[1], 'lease')
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil(ARGV[5] / 1000)))
return 1
