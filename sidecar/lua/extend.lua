-- Rewrites the workflow deadline of a lock that is still ours; its TTL stays as it is.
--
-- KEYS  1 the lock
-- ARGV  1 head of the value, "<lease> <instance> lk1 "   2 workflow deadline, ms from the grant
-- Returns 1 rewritten, 0 missing, another's or of another type.
local lock = KEYS[1]
local value = redis.pcall('GET', lock)
if type(value) == 'table' then
    if string.find(value.err, 'WRONGTYPE', 1, true) then
        return 0
    end
    return value
end
if not value or string.sub(value, 1, 54) ~= ARGV[1] then
    return 0
end
local before, since, tail = string.match(value, '^(%d+ %d+) %d+ (%d+) (.*)$', 55)
if not before then
    return 0
end
value = string.format('%s%s %.0f %s %s', ARGV[1], before, since + ARGV[2] * 1000, since, tail)

local left = redis.call('PTTL', lock)
if left < 0 then -- somebody made it persistent: that is the next renewal's business
    local set = redis.pcall('SET', lock, value)
    return type(set) == 'table' and set.err and set or 1
end
left = math.max(left, 1)
-- Redis that is out of memory refuses a SET, but not one that follows a write of the same script.
local expire = redis.pcall('PEXPIRE', lock, left)
if type(expire) == 'table' then
    return expire
end
redis.call('SET', lock, value, 'PX', left)
return 1
