-- Takes back units of an admission, see package window and decide.lua.
--
-- KEYS[1]  the key
-- ARGV     when the admission counts (microseconds), the most units to take
--          back, and the instant, in tests; empty for the server's time
-- Returns  how many units were taken back.

local SUMS, TIMES, BEHIND, CHUNK = 2 ^ 40, 2 ^ 48, 2 ^ 48 - 2 ^ 45, 100
local FORMAT = '>I6I5'
local key, at, units, now = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local tail = redis.call('LINDEX', key, -1)
if not tail then return 0 end
if at <= now - struct.unpack(FORMAT, tail) then return 0 end

-- Every entry from the admission's on has a sum that knows its units.
local places, index, found = {}, 0, nil
while not found do
  local entries = redis.call('LRANGE', key, index, index + CHUNK)
  for i = 1, #entries - 1 do -- the last is the next chunk's first, or the tail
    local time, sum = struct.unpack(FORMAT, entries[i])
    local age = (at - time) % TIMES -- of what was made at that instant
    if age > 0 and age <= BEHIND then return 0 end
    places[#places + 1] = { time, sum }
    if age == 0 then
      local _, before = struct.unpack(FORMAT, entries[i + 1])
      found = (sum - before) % SUMS
      break
    end
  end
  if not found and #entries <= CHUNK then return 0 end
  index = index + CHUNK
end

units = math.min(units, found)
if units == 0 then return 0 end
for i, entry in ipairs(places) do
  redis.call('LSET', key, i - 1, struct.pack(FORMAT, entry[1], (entry[2] - units) % SUMS))
end
if units == found then
  if redis.call('LLEN', key) == 2 then
    redis.call('DEL', key)
    return units
  end
  redis.call('LSET', key, #places - 1, '')
  redis.call('LREM', key, 1, '')
end
-- The tail repeats the oldest entry.
redis.call('LSET', key, -1, tail:sub(1, struct.size(FORMAT)) .. redis.call('LINDEX', key, -2))
return units
