-- Lengthens the locks that are still ours: compare-and-PEXPIRE for each key.
--
-- KEYS  the locks
-- ARGV  two for each: head of its value, "<lease> <instance> lk1 ", and TTL, ms
-- Returns for each key 1 renewed, 0 missing or another's, -1 of another type, or its error. Nothing
-- is raised: what happens to one key says nothing about the others.
local answers = {}
local call, given = redis.pcall, ARGV
for i, lock in ipairs(KEYS) do
    local answer = call('GETRANGE', lock, '0', '53')
    if answer == given[2 * i - 1] then
        answer = call('PEXPIRE', lock, given[2 * i])
    elseif type(answer) ~= 'table' then
        answer = 0
    elseif string.find(answer.err, 'WRONGTYPE', 1, true) then
        answer = -1
    end
    answers[i] = answer
end
return answers
