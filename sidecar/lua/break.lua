-- Deletes the lock, whoever's it is and of whatever type, and says so to those who wait.
--
-- KEYS  1 the lock
-- Returns 1 deleted, 0 there was none.
local deleted = redis.pcall('DEL', KEYS[1])
if deleted == 1 then
    redis.pcall('PUBLISH', KEYS[1] .. '\31freed', '') -- an ACL may forbid it: waiters ask again too
end
return deleted
