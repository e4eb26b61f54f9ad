-- Who has the lock.
--
-- KEYS  1 the lock
-- Returns {0, PTTL, value, clock} held ({0, PTTL, length, clock} when it is over 1024 bytes),
--         {1, clock} free, {2, PTTL, type, clock} a key that is no string. clock: Redis' own, us.
local lock = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local value = redis.pcall('GET', lock)
if type(value) == 'table' then
    if not string.find(value.err, 'WRONGTYPE', 1, true) then
        return value
    end
    return {2, redis.call('PTTL', lock), redis.call('TYPE', lock).ok, now}
end
if not value then
    return {1, now}
end
return {0, redis.call('PTTL', lock), #value > 1024 and #value or value, now}
