-- Frees the lock if it is still ours: compare-and-delete; and says so to those who wait.
--
-- KEYS  1 the lock
-- ARGV  1 head of the value, "<lease> <instance> lk1 "
-- Returns 1 deleted, 0 missing, another's or of another type.
local head = redis.pcall('GETRANGE', KEYS[1], '0', '53')
if head ~= ARGV[1] then
    if type(head) == 'table' and not string.find(head.err, 'WRONGTYPE', 1, true) then
        return head
    end
    return 0
end
local deleted = redis.pcall('DEL', KEYS[1])
if deleted == 1 then
    redis.pcall('PUBLISH', KEYS[1] .. '\31freed', '') -- an ACL may forbid it: waiters ask again too
end
return deleted
