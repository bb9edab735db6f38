#!lua name=timeline_@VERSION@
-- What must happen in one step on a node. Numbers in Lua are doubles, so ids, epochs, tokens and versions stay strings of 8 bytes, big
-- endian, compared byte by byte (`<` on strings asks the server's locale). Arrival numbers are below 2^53 and may be numbers.

-- domain/records.py, Header: ">BB20sQQQQQQQ"
local HEADER_BYTES, HEADER_LAYOUT = 78, 1
local EPOCH, BASE, LATE, TOKEN = 31, 39, 55, 63 -- first bytes, counted from 1
-- domain/records.py, Post, State, Author: ">BBQ…"
local VERSION = 3
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

-- A number that marks the late arrival in a header.
local function packed_arrival(number)
    return struct.pack('>I8', number)
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
--
-- A tail read believes that whatever stands before an entry has an id of at most its time plus W and the clocks' skew
-- (assembly/skeleton.py). History was pulled after the first arrivals came, so it may break that: then, which is when an arrival's id is
-- below `line` (the newest id of history, less both), the last of these arrivals is marked as late, and tails that reach them read the
-- whole list.
local function install(keys, args)
    local key, building = keys[1], header_of(keys[1])
    if not building or field(building, TOKEN) ~= args[1] then
        return 0
    end
    local history, arrived = #args - 4, redis.call('LRANGE', key, 1, -1)
    local late = struct.unpack('>I8', field(building, LATE))
    if late > 0 then
        late = late + history
    end
    for _, entry in ipairs(arrived) do
        if is_less(entry, args[3]) then
            late = history + #arrived
            break
        end
    end
    redis.call('LPOP', key)
    for last = #args, 5, -500 do
        local newest_first = {}
        for i = last, math.max(5, last - 499), -1 do
            newest_first[#newest_first + 1] = args[i]
        end
        redis.call('LPUSH', key, unpack(newest_first))
    end
    redis.call('LPUSH', key, with_field(args[2], LATE, packed_arrival(late)))
    redis.call('PEXPIRE', key, args[4])
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

-- drop_epoch(list; epoch): removes the list of this epoch.
local function drop_epoch(keys, args)
    local header = header_of(keys[1])
    if header and field(header, EPOCH) == args[1] then
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

-- push_late(list; entry): as RPUSHX, and the header says that its newest late arrival is this one.
local function push_late(keys, args)
    local header = header_of(keys[1])
    if not header then
        return 0
    end
    local length = redis.call('RPUSH', keys[1], args[1])
    local arrival = struct.unpack('>I8', field(header, BASE)) + length - 1
    redis.call('LSET', keys[1], 0, with_field(header, LATE, packed_arrival(arrival)))
    return length
end

-- trim(list; seen, count, header): the oldest `count` entries go and the header is replaced, if it is still the one seen.
local function trim(keys, args)
    if redis.call('LINDEX', keys[1], 0) ~= args[1] then
        return 0
    end
    redis.call('LPOP', keys[1], args[2]) -- the header and all but the last of them, whose place the new header takes
    redis.call('LSET', keys[1], 0, args[3])
    return 1
end

-- put_newer(record; value, milliseconds): sets it unless one of the same layout and a higher version is there. Equal ones are set again:
-- a state's counts change without a new version.
local function put_newer(keys, args)
    local old, new = redis.call('GET', keys[1]), args[1]
    if old and #old >= VERSION + 7 and string.byte(old, 1) == string.byte(new, 1) then
        if is_less(field(new, VERSION), field(old, VERSION)) then
            return 0
        end
    end
    redis.call('SET', keys[1], new, 'PX', args[2])
    return 1
end

-- fill(record; value expected, value, milliseconds): sets it if exactly the expected value is there.
local function fill(keys, args)
    if redis.call('GET', keys[1]) ~= args[1] then
        return 0
    end
    redis.call('SET', keys[1], args[2], 'PX', args[3])
    return 1
end

redis.register_function('timeline_@VERSION@_begin_build', begin_build)
redis.register_function('timeline_@VERSION@_install', install)
redis.register_function('timeline_@VERSION@_abandon', abandon)
redis.register_function('timeline_@VERSION@_drop_epoch', drop_epoch)
redis.register_function('timeline_@VERSION@_drop_first', drop_first)
redis.register_function('timeline_@VERSION@_renew', renew)
redis.register_function('timeline_@VERSION@_push_late', push_late)
redis.register_function('timeline_@VERSION@_trim', trim)
redis.register_function('timeline_@VERSION@_put_newer', put_newer)
redis.register_function('timeline_@VERSION@_fill', fill)
