-- Finds out which of the commands that the other scripts run are forbidden to this user (an ACL):
-- inside a script Redis does not say which it was. Nothing is left behind.
--
-- KEYS  1 a key of the locks' prefix that no client can name   2 the counter of fencing tokens
-- Returns the names of the commands that are forbidden, with blanks between; "" when none is. Other
-- errors (READONLY, OOM) are no finding: they pass, and are told when a lock is asked for.
local probe = KEYS[1]
local forbidden = {}

local function try(...)
    local answer = redis.pcall(...)
    local why = type(answer) == 'table' and answer.err
    if not why then
        return true
    end
    if string.find(why, "can't ", 1, true) or string.find(why, 'permission', 1, true) then
        forbidden[#forbidden + 1] = string.lower((...))
    end
    return false
end

if try('SET', probe, '0', 'PX', '1000') then
    try('INCR', probe) -- without the SET's expiry, and with DEL forbidden, it would stay for good
end
try('GET', probe)
try('GETRANGE', probe, '0', '0')
try('PEXPIRE', probe, '1000')
try('PTTL', probe)
try('TYPE', probe)
try('DEL', probe)
try('TIME')
if not try('GET', KEYS[2]) then
    forbidden[#forbidden + 1] = '(the counter of fencing tokens)'
end
return table.concat(forbidden, ' ')
