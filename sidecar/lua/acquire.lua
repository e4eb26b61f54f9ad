-- Takes the lock, or says who has it. Idempotent by token: a repeat of an acquire whose reply was
-- lost lengthens the key and answers the fencing token stored the first time.
--
-- KEYS  1 the lock   2 the counter of fencing tokens
-- ARGV  1 head of the value, "<lease> <instance> lk1 "   2 TTL, ms   3 workflow deadline, ms
--       4 the highest fencing token seen                 5 tail, "<pid> <uid> <host>[ <label>]"
--       6 optional: head of a lease that hands over. Where the key holds it, the key counts as free.
-- Returns {1, fence} taken, {1, fence, 1} taken from the lease that hands over,
--         {0, PTTL, value} held ({0, PTTL, length} when it is over 1024 bytes),
--         {2, PTTL, type} held by a key that is no string.
-- A held key costs one GET and no write. Errors are returned as Redis made them (pcall), for a
-- raised one loses its code in old versions.
local lock = KEYS[1]
local value = redis.pcall('GET', lock)
if value then
    if type(value) == 'table' then
        if not string.find(value.err, 'WRONGTYPE', 1, true) then
            return value
        end
        return {2, redis.call('PTTL', lock), redis.call('TYPE', lock).ok}
    end
    local head = string.sub(value, 1, 54)
    if head == ARGV[1] then
        local expire = redis.pcall('PEXPIRE', lock, ARGV[2])
        if type(expire) == 'table' then
            return expire
        end
        return {1, tonumber(string.match(value, '^%d+', 55))}
    end
    if head ~= ARGV[6] then
        return {0, redis.call('PTTL', lock), #value > 1024 and #value or value}
    end
end

local fence = redis.pcall('INCR', KEYS[2])
if type(fence) == 'table' then
    return fence
end
local time = redis.call('TIME')
local taken = fence
if fence < 1000000000000000 then -- the counter was lost: it begins anew above all earlier ones
    fence = time[1] * 1000000 + time[2]
end
local floor = tonumber(ARGV[4])
if fence <= floor then
    fence = floor + 1
end
if fence >= 9007199254740991 then
    return redis.error_reply('ERR the counter of fencing tokens is out of range')
end
-- Numbers of 16 digits are written in two parts: %.0f takes 0.3 us, and %d of a small one a tenth.
local low = fence % 1000000
local high = (fence - low) / 1000000
if fence ~= taken then
    redis.call('SET', KEYS[2], string.format('%d%06d', high, low))
end
local deadline = time[2] + ARGV[3] * 1000
local us = deadline % 1000000
redis.call('SET', lock, string.format('%s%d%06d %s %d%06d %s%06d %s', ARGV[1], high, low, ARGV[2],
    time[1] + (deadline - us) / 1000000, us, time[1], time[2], ARGV[5]), 'PX', ARGV[2])
if value then
    return {1, fence, 1}
end
return {1, fence}
