#!lua name=timeline_@VERSION@
-- What must happen in one step on a node. Numbers in Lua are doubles, so ids, epochs, tokens and versions stay strings of 8 bytes, big
-- endian, compared byte by byte (`<` on strings asks the server's locale). Arrival numbers are below 2^53 and may be numbers.

-- domain/records.py, Header: ">BB20sQQQQQQQ"
local HEADER_BYTES, HEADER_LAYOUT = 78, 7
local FLOOR, EPOCH, BASE, LATE, TOKEN, LATE_MS = 23, 31, 39, 55, 63, 71 -- first bytes, counted from 1
-- a tag (cache/replication.py), then domain/records.py, Post, State, Author: ">BBQ…"
local TAG_BYTES, LAYOUT, VERSION = 8, 9, 11
local NO_TOKEN = '\0\0\0\0\0\0\0\0'

local function field(packed, first)
    return string.sub(packed, first, first + 7)
end

local function with_field(packed, first, value)
    return string.sub(packed, 1, first - 1) .. value .. string.sub(packed, first + 8)
end

local function is_less(one, other)
    for i = 1, 8 do
        local a, b = string.byte(one, i), string.byte(other, i)
        if a ~= b then
            return a < b
        end
    end
    return false
end

-- The list's header, or nil: no list, or none of ours.
local function header_of(key)
    local header = redis.call('LINDEX', key, 0)
    if header and #header == HEADER_BYTES and string.byte(header, 1) == HEADER_LAYOUT then
        return header
    end
    return nil
end

local function number(packed, first)
    return (struct.unpack('>I8', packed, first))
end

local function packed_number(value)
    return struct.pack('>I8', value)
end

-- A new list: what is in it now (arrivals, oldest first) behind history (args[first] and on, oldest first) and behind this header; and how
-- long it stays. `late` is the place of the newest late one among the arrivals, 0 for none.
--
-- A tail read believes that whatever stands before an entry has an id of at most its time plus W and the clocks' skew
-- (assembly/sure.py). History was pulled after the first arrivals came, so it may break that: then, which is when an arrival's id is
-- below `line` (the newest id of history, less both), the last of these arrivals is marked as late, and tails that reach them read the
-- whole list.
local function put_before(key, arrived, late, header, line, milliseconds, args, first)
    local history = #args - first + 1
    if late > 0 then
        late = late + history
    end
    for _, entry in ipairs(arrived) do
        if is_less(entry, line) then
            late = history + #arrived
            break
        end
    end
    for last = #args, first, -500 do
        local newest_first = {}
        for i = last, math.max(first, last - 499), -1 do
            newest_first[#newest_first + 1] = args[i]
        end
        redis.call('LPUSH', key, unpack(newest_first))
    end
    redis.call('LPUSH', key, with_field(header, LATE, packed_number(late)))
    redis.call('PEXPIRE', key, milliseconds)
end

-- begin_build(list; header, milliseconds): 1 if there was no list, 0 otherwise.
local function begin_build(keys, args)
    if redis.call('EXISTS', keys[1]) == 1 then
        return 0
    end
    redis.call('RPUSH', keys[1], args[1])
    redis.call('PEXPIRE', keys[1], args[2])
    return 1
end

-- install(list; token, header, line, milliseconds, entry…): history, oldest first, before what arrived since begin_build.
-- 1, or 0 if the list is not being built under this token.
local function install(keys, args)
    local key, building = keys[1], header_of(keys[1])
    if not building or field(building, TOKEN) ~= args[1] then
        return 0
    end
    local arrived = redis.call('LRANGE', key, 1, -1)
    local header = with_field(args[2], LATE_MS, field(building, LATE_MS))
    redis.call('LPOP', key)
    put_before(key, arrived, number(building, LATE), header, args[3], args[4], args, 5)
    return 1
end

-- reinstall(list; epoch, after, header, line, milliseconds, entry…): history, oldest first, before what arrived with a number above
-- `after`; the rest goes. 1, or 0 if the list is not of this epoch, or is being built.
--
-- If it was cut meanwhile above `after`, what was cut may be missing from history, and the floor stays where the cut has put it. The
-- time of the last late arrival is kept, whether or not that one is: who has not read since has missed it.
local function reinstall(keys, args)
    local key, old = keys[1], header_of(keys[1])
    if not old or field(old, EPOCH) ~= args[1] or field(old, TOKEN) ~= NO_TOKEN then
        return 0
    end
    local base, after, header = number(old, BASE), number(args[2], 1), args[3]
    if base > after and is_less(field(header, FLOOR), field(old, FLOOR)) then
        header = with_field(header, FLOOR, field(old, FLOOR))
    end
    header = with_field(header, LATE_MS, field(old, LATE_MS))
    local first = math.max(after - base, 0) + 1 -- the index of the first one that is kept
    local late = math.max(number(old, LATE) - base - first + 1, 0)
    redis.call('LTRIM', key, first, -1)
    put_before(key, redis.call('LRANGE', key, 0, -1), late, header, args[4], args[5], args, 6)
    return 1
end

-- abandon(list; token): removes a list that is being built under this token.
local function abandon(keys, args)
    local header = header_of(keys[1])
    if header and field(header, TOKEN) == args[1] then
        return redis.call('DEL', keys[1])
    end
    return 0
end

-- drop_first(list; element): removes a list that begins with this element.
local function drop_first(keys, args)
    if redis.call('LINDEX', keys[1], 0) == args[1] then
        return redis.call('DEL', keys[1])
    end
    return 0
end

-- renew(list; header, milliseconds): prolongs the list that has this header; never one that is being built, whose expiry frees it.
local function renew(keys, args)
    local header = header_of(keys[1])
    if header == args[1] and field(header, TOKEN) == NO_TOKEN then
        return redis.call('PEXPIRE', keys[1], args[2])
    end
    return 0
end

-- push_late(list; entry): as RPUSHX, and the header says that its newest late arrival is this one, and came now.
local function push_late(keys, args)
    local header = header_of(keys[1])
    if not header then
        return 0
    end
    local length = redis.call('RPUSH', keys[1], args[1])
    local now = redis.call('TIME')
    header = with_field(header, LATE, packed_number(number(header, BASE) + length - 1))
    header = with_field(header, LATE_MS, packed_number(now[1] * 1000 + math.floor(now[2] / 1000)))
    redis.call('LSET', keys[1], 0, header)
    return length
end

-- trim(list; epoch, base, count, last, floor): the oldest `count` entries, `last` being the newest of them, go: the base is higher by
-- their number, and the floor at least the one given. 1, or 0 if others stand at the front than the caller has read: the list is of
-- another epoch, or is being built, or was cut meanwhile. (`last` tells it of a replica that became primary without having them all.)
--
-- The header is changed as it is now: what late pushes have noted since stays.
local function trim(keys, args)
    local key, header, count = keys[1], header_of(keys[1]), tonumber(args[3])
    if not header or field(header, TOKEN) ~= NO_TOKEN then
        return 0
    end
    if field(header, EPOCH) ~= args[1] or field(header, BASE) ~= args[2] then
        return 0
    end
    if redis.call('LINDEX', key, count) ~= args[4] then
        return 0
    end
    if is_less(field(header, FLOOR), args[5]) then
        header = with_field(header, FLOOR, args[5])
    end
    header = with_field(header, BASE, packed_number(number(header, BASE) + count))
    redis.call('LPOP', key, count) -- the header and all but the last of them, whose place the new header takes
    redis.call('LSET', key, 0, header)
    return 1
end

-- put_newer(record; tagged value, milliseconds): sets it unless one of the same layout and a higher version is there. Equal ones are set
-- again: a state's counts change without a new version, and what another primary's tag makes worthless gets the present one.
-- Whatever its tag, a higher version was read from the store: what is lower is older. So a deletion's record bars every fill from before
-- it, even if its own tag is a wrong one.
local function put_newer(keys, args)
    local old, new = redis.call('GET', keys[1]), args[1]
    if old and #old >= VERSION + 7 and string.byte(old, LAYOUT) == string.byte(new, LAYOUT) then
        if is_less(field(new, VERSION), field(old, VERSION)) then
            return 0
        end
    end
    redis.call('SET', keys[1], new, 'PX', args[2])
    return 1
end

-- begin_fill(record; tag, rest, milliseconds): puts tag and rest where nothing is, or what another primary's tag makes worthless.
local function begin_fill(keys, args)
    local old = redis.call('GET', keys[1])
    if old and string.sub(old, 1, TAG_BYTES) == args[1] then
        return 0
    end
    redis.call('SET', keys[1], args[1] .. args[2], 'PX', args[3])
    return 1
end

-- fill(record; rest expected, rest, milliseconds): sets it, behind the tag that is there, if exactly the expected stands behind that.
local function fill(keys, args)
    local old = redis.call('GET', keys[1])
    if not old or string.sub(old, TAG_BYTES + 1) ~= args[1] then
        return 0
    end
    redis.call('SET', keys[1], string.sub(old, 1, TAG_BYTES) .. args[2], 'PX', args[3])
    return 1
end

redis.register_function('timeline_@VERSION@_begin_build', begin_build)
redis.register_function('timeline_@VERSION@_install', install)
redis.register_function('timeline_@VERSION@_reinstall', reinstall)
redis.register_function('timeline_@VERSION@_abandon', abandon)
redis.register_function('timeline_@VERSION@_drop_first', drop_first)
redis.register_function('timeline_@VERSION@_renew', renew)
redis.register_function('timeline_@VERSION@_push_late', push_late)
redis.register_function('timeline_@VERSION@_trim', trim)
redis.register_function('timeline_@VERSION@_put_newer', put_newer)
redis.register_function('timeline_@VERSION@_begin_fill', begin_fill)
redis.register_function('timeline_@VERSION@_fill', fill)
