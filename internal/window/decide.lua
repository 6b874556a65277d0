-- Decides a batch of requests at one instant, in order, see package window.
--
-- KEYS     the key of each charge, in order, all of one slot
-- ARGV[1]  the requests, packed: what the code reads, in order
-- ARGV[2]  the instant in microseconds, in tests; empty for the server's time
-- Returns  the instant and what became of the charges, packed.
--
-- A key is a list. Its tail says how far back entries are kept (microseconds)
-- and the sum of all units admitted before the oldest entry, and repeats that
-- entry, of whose sum it may lack what came later at the same instant. Before the
-- tail come the entries, oldest last, each its time and the sum of all units
-- admitted up to and with it. Sums are modulo 2^40, times grow from entry to entry,
-- modulo 2^48: nine years, of which one is ahead of now. So the units of any
-- stretch are a difference, its ends are found by halving, and an entry takes 13
-- bytes whatever its units.
--
-- Constant arguments of commands are strings: Redis prints numbers with all their
-- digits first.

local call, pack, unpack = redis.call, struct.pack, struct.unpack
local floor, min, max = math.floor, math.min, math.max
local SUMS, TIMES, BEHIND = 2 ^ 40, 2 ^ 48, 2 ^ 48 - 2 ^ 45
local FORMAT, TAIL = '>I6I5', '>I6I5I6I5'

local injected = ARGV[2] ~= ''
local now
if injected then
  now = tonumber(ARGV[2])
else
  local t = call('TIME')
  now = t[1] * 1000000 + t[2]
end

-- when returns the time that the list has modulo 2^48.
local function when(time)
  local age = (now - time) % TIMES
  if age > BEHIND then age = age - TIMES end
  return now - age
end

-- decode returns an entry's time and sum.
local function decode(entry)
  local time, sum = unpack(FORMAT, entry)
  return when(time), sum
end

-- tail returns what the list ends with.
local function tail(s)
  return pack(TAIL, s.keep, s.base, s.oldest % TIMES, s.first)
end

-- load fills a state with what the server has of a key. Each is used for one
-- request after the other, because making one costs as much as a command.
local function load(s, key)
  s.key, s.stamp = key, 0
  s.dirty, s.new, s.fresh, s.longer = false, false, false, false
  local last = call('LINDEX', key, '-1')
  if last then
    s.held, s.stored = true, true -- it has entries; the list exists
    s.keep, s.base, s.oldest, s.first = unpack(TAIL, last)
    s.oldest = when(s.oldest)
    s.newest, s.sum = decode(call('LINDEX', key, '0'))
    s.was = s.newest
  else
    s.held, s.stored, s.keep, s.was = false, false, 0, 0
  end
end

-- flush writes the newest entry. The key lives until that has left, and up to an
-- eighth longer, so that not every admission has to say so, and a second more,
-- for the clock of a replica that takes over.
local function flush(s)
  if s.dirty then
    local entry = pack(FORMAT, s.newest % TIMES, s.sum)
    if s.new then
      if s.stored then call('DEL', s.key) end
      call('RPUSH', s.key, entry, tail(s))
      s.stored = true
    elseif s.fresh then
      call('LPUSH', s.key, entry)
    else
      call('LSET', s.key, '0', entry)
    end
  end
  local slack = floor(s.keep / 8) + 1
  if not injected and s.stored and (s.new or s.longer or s.newest % slack < s.newest - s.was) then
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
  call('LSET', s.key, '-1', tail(s))
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
    call('LSET', s.key, '-1', tail(s))
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
    if (sum - before) % SUMS < leave then -- not the oldest alone, or more of it than the tail knows
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
local out, charges = { pack('>I7', now) }, {}
while at <= #requests do
  local fill, n
  fill, n, at = unpack('>BI2', requests, at)
  for i = 1, n do
    local c = charges[i]
    if not c then
      c = { own = {} }
      charges[i] = c
    end
    key = key + 1
    local name, s = KEYS[key]
    for j = 1, i - 1 do
      if charges[j].state.key == name then s = charges[j].state end
    end
    if not s then
      s = c.own
      load(s, name)
    end
    local counts, span, part
    counts, c.cost, c.units, c.limit, c.window, span, part, at = unpack('>BI5I5I5I6I6I6', requests, at)
    c.state, c.counts, c.charged = s, counts == 1, 0
    local stamp = part > 1 and now - now % part + part - 1 or now
    touch(s, span)
    if fill == 1 then
      judge(c, c.cost)
      c.charged = min(c.cost, c.remaining)
      settle(c, stamp, c.charged)
      add(s, stamp, c.charged)
    elseif stamp > s.stamp then
      s.stamp = stamp
    end
  end
  if fill == 0 then
    local admitted = true
    for i = 1, n do
      local c = charges[i]
      judge(c, c.units)
      admitted = admitted and c.fits
    end
    for i = 1, n do
      local c = charges[i]
      if admitted then
        settle(c, c.state.stamp, c.units)
        c.charged = c.cost
        add(c.state, c.state.stamp, c.cost)
      elseif c.counts then
        c.charged = min(c.cost, c.limit)
        if c.charged > 0 then trim(c.state, c.limit - c.charged) end
        add(c.state, c.state.stamp, c.charged)
      end
    end
    for i = 1, admitted and 0 or n do
      local c = charges[i]
      if c.counts then
        local fits = c.fits
        judge(c, c.units)
        c.fits = fits
      end
    end
  end
  for i = 1, n do
    local c = charges[i]
    if c.state.dirty or c.state.longer then flush(c.state) end
    out[#out + 1] = pack('>BI5I5I7I7', (c.fits and 1 or 0) + (c.never and 2 or 0), c.charged, c.remaining, c.reset, c.retry)
  end
end
return table.concat(out)
