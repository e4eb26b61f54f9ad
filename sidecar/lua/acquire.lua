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
if type(value) == 'table' then
    if not string.find(value.err, 'WRONGTYPE', 1, true) then
        return value
    end
    return {2, redis.call('PTTL', lock), redis.call('TYPE', lock).ok}
end
if value then
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
local now = time[1] * 1000000 + time[2]
local taken = fence
if fence < 1000000000000000 then -- the counter was lost: it begins anew above all earlier ones
    fence = now
end
if fence <= tonumber(ARGV[4]) then
    fence = tonumber(ARGV[4]) + 1
end
if fence >= 9007199254740991 then
    return redis.error_reply('ERR the counter of fencing tokens is out of range')
end
local digits = string.format('%.0f', fence)
if fence ~= taken then
    redis.call('SET', KEYS[2], digits)
end
local held = value
value = string.format('%s%s %s %.0f %.0f %s', ARGV[1], digits, ARGV[2], now + ARGV[3] * 1000, now,
    ARGV[5])
redis.call('SET', lock, value, 'PX', ARGV[2])
if held then
    return {1, fence, 1}
end
return {1, fence}
