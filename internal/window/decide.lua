-- Decides a batch of requests at one instant, in order, see package window.
--
-- KEYS     the key of each charge, in order, all of one slot
-- ARGV[1]  the requests, packed: what the code reads, in order
-- ARGV[2]  the instant in microseconds, in tests; empty for the server's time
-- Returns  the instant and what became of the charges, packed.
--
-- A key is a list. Its tail says how far back entries are kept (microseconds)
-- and the sum of all units admitted before the oldest entry; before it come the
-- entries, oldest last, each its time and the sum of all units admitted up to
-- and with it. Sums are modulo 2^40, times grow from entry to entry, modulo 2^48:
-- nine years, of which one is ahead of now. So the units of any stretch are a
-- difference, its ends are found by halving, and an entry takes 13 bytes
-- whatever its units.
--
-- Constant arguments of commands are strings: Redis prints numbers with all their
-- digits first.

local call, pack, unpack = redis.call, struct.pack, struct.unpack
local floor, min, max = math.floor, math.min, math.max
local SUMS, TIMES, BEHIND = 2 ^ 40, 2 ^ 48, 2 ^ 48 - 2 ^ 45
local FORMAT = '>I6I5'

local injected = ARGV[2] ~= ''
local now
if injected then
  now = tonumber(ARGV[2])
else
  local t = call('TIME')
  now = t[1] * 1000000 + t[2]
end

-- encode and decode turn an entry's time and sum into what the list has.
local function encode(time, sum)
  return pack(FORMAT, time % TIMES, sum)
end

local function decode(entry)
  local time, sum = unpack(FORMAT, entry)
  local age = (now - time) % TIMES
  if age > BEHIND then age = age - TIMES end
  return now - age, sum
end

local states, order = {}, {}

local function load(key)
  local s = states[key]
  if s then return s end
  s = { -- all its fields at once, because a table that grows is copied
    key = key, held = false, stored = false, keep = 0, base = 0, oldest = 0, first = 0, newest = 0, sum = 0,
    was = 0, stamp = 0, dirty = false, new = false, fresh = false, longer = false,
  }
  local tail = call('LRANGE', key, '-2', '-1')
  if tail[2] then
    s.held = true   -- it has entries
    s.stored = true -- the list exists
    s.keep, s.base = unpack(FORMAT, tail[2])
    s.oldest, s.first = decode(tail[1]) -- time and sum of the oldest entry
    s.newest, s.sum = decode(call('LINDEX', key, '0'))
    s.was = s.newest
  end
  states[key] = s
  order[#order + 1] = s
  return s
end

-- flush writes the newest entry. The key lives until that has left, and up to an
-- eighth longer, so that not every admission has to say so, and a second more,
-- for the clock of a replica that takes over.
local function flush(s)
  if s.dirty then
    local entry = encode(s.newest, s.sum)
    if s.new then
      if s.stored then call('DEL', s.key) end
      call('RPUSH', s.key, entry, pack(FORMAT, s.keep, s.base))
      s.stored = true
    elseif s.fresh then
      call('LPUSH', s.key, entry)
    else
      call('LSET', s.key, '0', entry)
    end
  end
  local slack = floor(s.keep / 8) + 1
  if not injected and s.stored and (s.new or s.longer or floor(s.was / slack) ~= floor(s.newest / slack)) then
    call('PEXPIRE', s.key, floor((s.newest - now + s.keep + slack) / 1000) + 1001)
    s.was = s.newest
  end
  s.dirty, s.new, s.fresh, s.longer = false, false, false, false
end

-- search finds the oldest entry of which found(time, sum) is true, as it is of
-- all that are newer, the newest at least. Returns its place from the tail, its
-- time and sum, and the sum of the one before it.
local function search(s, found)
  flush(s)
  local n = call('LLEN', s.key)
  local low, before = 1, s.base
  local high, time, sum = 2
  while true do
    time, sum = decode(call('LINDEX', s.key, -high))
    if high == n or found(time, sum) then break end
    low, before = high, sum
    high = min(2 * high, n)
  end
  while high - low > 1 do
    local middle = floor((low + high) / 2)
    local t, c = decode(call('LINDEX', s.key, -middle))
    if found(t, c) then
      high, time, sum = middle, t, c
    else
      low, before = middle, c
    end
  end
  return high, time, sum, before
end

-- cut drops the entries before a place, and what is before the sum base.
local function cut(s, place, time, sum, base)
  if place > 2 then call('LTRIM', s.key, 0, 1 - place) end
  s.oldest, s.first, s.base = time, sum, base
  call('LSET', s.key, '-1', pack(FORMAT, s.keep, base))
end

-- touch drops what is no longer kept, and keeps the rest for at least span.
local function touch(s, span)
  if s.held then
    local since = now - s.keep
    if s.newest <= since then
      s.held, s.dirty = false, false
    elseif s.oldest <= since then
      cut(s, search(s, function(time) return time > since end))
    end
  end
  if not s.held then
    s.keep = span
  elseif span > s.keep then
    s.keep = span
    flush(s)
    call('LSET', s.key, '-1', pack(FORMAT, s.keep, s.base))
    s.longer = true
  end
end

-- add charges units that count at an instant, or with the newest entry.
local function add(s, at, units)
  if units == 0 then return end
  if not s.held then
    s.held, s.new = true, true
    s.base, s.sum, s.oldest, s.newest = 0, units, at, at
    s.was = -1
  else
    if at > s.newest then
      if s.dirty then flush(s) end
      s.newest, s.fresh = at, true
    end
    s.sum = (s.sum + units) % SUMS
  end
  s.dirty = true
  if s.oldest == s.newest then s.first = s.sum end
end

-- trim drops the oldest units beyond most.
local function trim(s, most)
  if not s.held then return end
  local excess = (s.sum - s.base) % SUMS - most
  if excess <= 0 then return end
  if most == 0 then
    s.held, s.dirty = false, false
    return
  end
  local base = s.base
  local place, time, sum = search(s, function(_, c) return (c - base) % SUMS > excess end)
  cut(s, place, time, sum, (base + excess) % SUMS)
end

-- judge says what becomes of a charge when the given units are asked for.
local function judge(c, units)
  local s = c.state
  local used, time, sum, before = 0
  c.reset, c.retry, c.never = 0, 0, false
  if s.held then
    local since = now - c.window
    if s.oldest > since or c.window >= s.keep then
      used, time, sum, before = (s.sum - s.base) % SUMS, s.oldest, s.first, s.base
    elseif s.newest > since then
      local _
      _, time, sum, before = search(s, function(t) return t > since end)
      used = (s.sum - before) % SUMS
    end
    if used > 0 then c.reset = time + c.window - now end
  end
  c.remaining = max(0, c.limit - used)
  c.fits = used + units <= c.limit
  if units > c.limit then
    c.never = true
  elseif not c.fits then
    local leave = used + units - c.limit
    if (sum - before) % SUMS < leave then
      local from, _ = time
      _, time = search(s, function(t, total) return t >= from and (total - before) % SUMS >= leave end)
    end
    c.retry = time + c.window - now
  end
end

-- settle turns what judge found before units were charged into what is so after.
local function settle(c, stamp, units)
  c.remaining = max(0, c.remaining - units)
  if c.reset == 0 and units > 0 then c.reset = c.window + stamp - now end
end

local requests, at, key = ARGV[1], 1, 0
local out = { pack('>I7', now) }
local charges = {}
while at <= #requests do
  local fill, n
  fill, n, at = unpack('>BI2', requests, at)
  for i = 1, n do
    local c = charges[i] or {}
    charges[i], key = c, key + 1
    local counts, part, span
    counts, c.cost, c.units, c.limit, c.window, span, part, at = unpack('>BI5I5I5I6I6I6', requests, at)
    c.counts, c.charged = counts == 1, 0
    c.stamp = now - math.fmod(now, part) + part - 1
    c.state, c.span = load(KEYS[key]), span
    if fill == 1 then
      touch(c.state, span)
      judge(c, c.cost)
      c.charged = min(c.cost, c.remaining)
      settle(c, c.stamp, c.charged)
      add(c.state, c.stamp, c.charged)
    end
  end
  if fill == 0 then
    for i = 1, n do
      touch(charges[i].state, charges[i].span)
      charges[i].state.stamp = 0
    end
    local admitted = true
    for i = 1, n do
      charges[i].state.stamp = max(charges[i].state.stamp, charges[i].stamp)
      judge(charges[i], charges[i].units)
      admitted = admitted and charges[i].fits
    end
    for i = 1, n do
      local c = charges[i]
      if admitted then
        settle(c, c.state.stamp, c.units)
        c.charged = c.cost
      elseif c.counts then
        c.charged = min(c.cost, c.limit)
        if c.charged > 0 then trim(c.state, c.limit - c.charged) end
      end
      add(c.state, c.state.stamp, c.charged)
    end
    for i = 1, n do
      local c = charges[i]
      if not admitted and c.counts then
        local fits = c.fits
        judge(c, c.units)
        c.fits = fits
      end
    end
  end
  for i = 1, n do
    local c = charges[i]
    out[#out + 1] = pack('>BI5I5I7I7', (c.fits and 1 or 0) + (c.never and 2 or 0), c.charged, c.remaining, c.reset, c.retry)
  end
end
for _, s in ipairs(order) do
  if s.dirty or s.longer then flush(s) end
end
return table.concat(out)
