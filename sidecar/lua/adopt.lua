-- Moves a lease to this sidecar, whichever had it: compared by its token alone. What it was granted
-- with stays: fencing token, TTL, times, uid and label.
--
-- KEYS  1 the lock
-- ARGV  1 the lease   2 uid that it must be of, 0 for any   3 instance, 4 pid, 5 host: the new ones
-- Returns {1, value as it is now, Redis' clock, us}, 0 missing, another's or past its workflow
--         deadline, -1 another uid's.
-- Many lockers' values are the secret that frees their lock: nothing but our own grammar is taken
-- for ours, whatever it begins with.
local lock = KEYS[1]
local value = redis.pcall('GET', lock)
if type(value) == 'table' then
    if string.find(value.err, 'WRONGTYPE', 1, true) then
        return 0
    end
    return value
end
if not value or #value > 1024 or string.sub(value, 1, 32) ~= ARGV[1] then
    return 0
end
local instance, fence, ttl, deadline, since, pid, uid, host, label = string.match(value,
    '^ ([0-9a-f]+) lk1 (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([!-~]+)(.*)$', 33)
if not instance or #instance ~= 16 or (label ~= '' and not string.find(label, '^ [^%c]+$')) then
    return 0
end
for _, number in ipairs({fence, ttl, deadline, since, pid, uid}) do
    if string.find(number, '^0%d') or tonumber(number) >= 9007199254740992 then
        return 0
    end
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if tonumber(ttl) < 1 or now >= tonumber(deadline) then
    return 0
end
if ARGV[2] ~= '0' and ARGV[2] ~= uid then
    return -1
end

-- Redis that is out of memory refuses a SET, but not one that follows a write of the same script.
local expire = redis.pcall('PEXPIRE', lock, ttl)
if type(expire) == 'table' then
    return expire
end
value = table.concat({ARGV[1], ARGV[3], 'lk1', fence, ttl, deadline, since, ARGV[4], uid, ARGV[5]},
    ' ') .. label
redis.call('SET', lock, value, 'PX', ttl)
return {1, value, now}
