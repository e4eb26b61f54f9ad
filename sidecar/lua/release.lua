-- Frees the lock if it is still ours: compare-and-delete.
--
-- KEYS  1 the lock
-- ARGV  1 head of the value, "<lease> <instance> lk1 "
-- Returns 1 deleted, 0 missing, another's or of another type.
local head = redis.pcall('GETRANGE', KEYS[1], 0, 53)
if type(head) == 'table' then
    if string.find(head.err, 'WRONGTYPE', 1, true) then
        return 0
    end
    return head
end
if head ~= ARGV[1] then
    return 0
end
return redis.pcall('DEL', KEYS[1])
