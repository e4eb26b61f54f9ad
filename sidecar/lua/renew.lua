-- Lengthens the locks that are still ours: compare-and-PEXPIRE for each key.
--
-- KEYS  the locks
-- ARGV  two for each: head of its value, "<lease> <instance> lk1 ", and TTL, ms
-- Returns for each key 1 renewed, 0 missing or another's, -1 of another type, or its error. Nothing
-- is raised: what happens to one key says nothing about the others.
local answers = {}
for i, lock in ipairs(KEYS) do
    local answer = redis.pcall('GETRANGE', lock, 0, 53)
    if type(answer) == 'table' then
        if string.find(answer.err, 'WRONGTYPE', 1, true) then
            answer = -1
        end
    elseif answer == ARGV[2 * i - 1] then
        answer = redis.pcall('PEXPIRE', lock, ARGV[2 * i])
    else
        answer = 0
    end
    answers[i] = answer
end
return answers
