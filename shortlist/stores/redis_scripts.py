"""What is done inside Redis, as Lua: each script is one atomic step.

Lua's numbers are doubles, so keys of 64 bits travel as 8 bytes, big-endian: their order as bytes is
their order as numbers. KEYS[1] is the prefix of all keys:

    head                 the number of the newest change
    events               stream, id <number>-0: digest of the event id (i)
    details              hash, number -> columns, then all of the event as JSON, see PACKED;
                         it is not in the stream, which keeps the bytes of entries that are deleted
    ids                  hash, digest of event id -> nothing
    tail:<user>          list, events not yet folded
    live:<user>          hash: profile (p) of folded events, version (v)
    of:<user>            list, numbers of the user's events
    shown:<user>         list, pages; the first one may be many that were merged
    exposures            stream of numbers;  exposure: hash, stream id -> columns of a page, JSON
    exposed:<user>       list, stream ids
    items                hash, key -> JSON, "" = deleted;  itemlog: by number;  itemkeys: by key
    base, importing      number of the import that is read, and of the one that is written
    base:<import>, baseitems:<import>, basekeys:<import>
    forgotten, salt      digests of users
    tidied               there for a day after what is old was dropped
"""

from __future__ import annotations

__all__ = [
    "APPEND",
    "BEGIN_IMPORT",
    "CHANGES",
    "CHANGE_ITEMS",
    "DROP_EVENTS",
    "DROP_EXPOSURES",
    "END_IMPORT",
    "EVENTS",
    "FOLD",
    "FORGET",
    "GET_BASE",
    "GET_ITEMS",
    "IMPORT_ITEMS",
    "IMPORT_PROFILES",
    "LIST_ITEMS",
    "LOG_IMPRESSIONS",
    "MERGE_SHOWN",
    "OLDEST",
    "PROFILE",
    "UNFOLDED",
]

# Redis 6 logs scripts as they are called, unless told to log what they do; later ones always do.
_BEGIN = """
if redis.replicate_commands then redis.replicate_commands() end
local P = KEYS[1]
local function number(n) return string.format('%.0f', n) end
"""

# PACKED: four bytes, the length of the columns, big-endian; the columns; JSON.

# ARGV: length of a tail that is due to be folded; of each event: id digest, user digest,
# user key, tail entry, packed details.
# Returns head, indexes of duplicates, of forgotten, users whose tails are long.
APPEND = (
    _BEGIN
    + """
local due = tonumber(ARGV[1])
local known, gone, long, named = {}, {}, {}, {}
for at = 2, #ARGV, 5 do
    local index = (at - 2) / 5
    local user = ARGV[at + 2]
    if redis.call('SISMEMBER', P .. 'forgotten', ARGV[at + 1]) == 1 then
        gone[#gone + 1] = index
    elseif redis.call('HSETNX', P .. 'ids', ARGV[at], '') == 0 then
        known[#known + 1] = index
    else
        local sequence = number(redis.call('INCR', P .. 'head'))
        redis.call('XADD', P .. 'events', sequence .. '-0', 'i', ARGV[at])
        redis.call('HSET', P .. 'details', sequence, ARGV[at + 4])
        redis.call('RPUSH', P .. 'of:' .. user, sequence)
        local length = redis.call('RPUSH', P .. 'tail:' .. user, ARGV[at + 3])
        if length >= due and not named[user] then
            named[user] = true
            long[#long + 1] = user
        end
    end
end
return {redis.call('GET', P .. 'head') or '0', known, gone, long}
"""
)

# ARGV: users. Returns of each: version, profile, tail.
UNFOLDED = (
    _BEGIN
    + """
local found = {}
for _, user in ipairs(ARGV) do
    local live = redis.call('HMGET', P .. 'live:' .. user, 'v', 'p')
    found[#found + 1] = {live[1], live[2], redis.call('LRANGE', P .. 'tail:' .. user, 0, -1)}
end
return found
"""
)

# ARGV: of each user: key, version that was read ('' = none), profile, events folded into it.
FOLD = (
    _BEGIN
    + """
for at = 1, #ARGV, 4 do
    local live = P .. 'live:' .. ARGV[at]
    if (redis.call('HGET', live, 'v') or '') == ARGV[at + 1] then
        redis.call('HSET', live, 'p', ARGV[at + 2])
        redis.call('HINCRBY', live, 'v', 1)
        redis.call('LTRIM', P .. 'tail:' .. ARGV[at], ARGV[at + 3], -1)
    end
end
"""
)

# ARGV: user. Returns what was imported, folded, the tail, pages shown.
PROFILE = (
    _BEGIN
    + """
local base = redis.call('GET', P .. 'base')
return {
    base and redis.call('HGET', P .. 'base:' .. base, ARGV[1]),
    redis.call('HGET', P .. 'live:' .. ARGV[1], 'p'),
    redis.call('LRANGE', P .. 'tail:' .. ARGV[1], 0, -1),
    redis.call('LRANGE', P .. 'shown:' .. ARGV[1], 0, -1),
}
"""
)

# ARGV: users. Returns what was imported of each; empty for nothing.
GET_BASE = (
    _BEGIN
    + """
local base = redis.call('GET', P .. 'base')
local found = {}
for at, key in ipairs(ARGV) do
    found[at] = base and redis.call('HGET', P .. 'base:' .. base, key) or ''
end
return found
"""
)

# ARGV: user digest, user, page, packed columns and exposure. Returns how many pages there are.
LOG_IMPRESSIONS = (
    _BEGIN
    + """
if redis.call('SISMEMBER', P .. 'forgotten', ARGV[1]) == 1 then return 0 end
local id = redis.call('XADD', P .. 'exposures', '*', '', '')
redis.call('HSET', P .. 'exposure', id, ARGV[4])
redis.call('RPUSH', P .. 'exposed:' .. ARGV[2], id)
return redis.call('RPUSH', P .. 'shown:' .. ARGV[2], ARGV[3])
"""
)

# ARGV: user, the first page as it was read, how many pages are merged, and into what.
MERGE_SHOWN = (
    _BEGIN
    + """
local shown = P .. 'shown:' .. ARGV[1]
if redis.call('LINDEX', shown, 0) == ARGV[2] then
    redis.call('LTRIM', shown, ARGV[3], -1)
    redis.call('LPUSH', shown, ARGV[4])
end
"""
)

# ARGV: of each item: key, id, JSON ('' = delete). Returns head, or nothing but an id that has the
# key already and the one that wanted it.
CHANGE_ITEMS = (
    _BEGIN
    + """
local base = redis.call('GET', P .. 'base')
for at = 1, #ARGV, 3 do
    local known = redis.call('HGET', P .. 'items', ARGV[at])
    if not known and base then known = redis.call('HGET', P .. 'baseitems:' .. base, ARGV[at]) end
    if known and known ~= '' and ARGV[at + 2] ~= '' then
        local id = cjson.decode(known).id
        if id ~= ARGV[at + 1] then return {'', id, ARGV[at + 1]} end
    end
end
for at = 1, #ARGV, 3 do
    local sequence = number(redis.call('INCR', P .. 'head'))
    redis.call('HSET', P .. 'items', ARGV[at], ARGV[at + 2])
    redis.call('ZADD', P .. 'itemlog', sequence, ARGV[at])
    redis.call('ZADD', P .. 'itemkeys', 0, ARGV[at])
end
return {redis.call('GET', P .. 'head') or '0'}
"""
)

# ARGV: keys. Returns JSON or nothing.
GET_ITEMS = (
    _BEGIN
    + """
local base = redis.call('GET', P .. 'base')
local found = {}
for at, key in ipairs(ARGV) do
    local item = redis.call('HGET', P .. 'items', key)
    if not item and base then item = redis.call('HGET', P .. 'baseitems:' .. base, key) end
    found[at] = item or ''
end
return found
"""
)

# ARGV: where to begin ('-' or '(' and a key), the most. Returns keys, JSON of each, and the key
# that the next call goes on after ('' = that was all).
LIST_ITEMS = (
    _BEGIN
    + """
local most = tonumber(ARGV[2])
local base = redis.call('GET', P .. 'base') or ''
local keys, last = {}, nil
local function gather(set)
    local some = redis.call('ZRANGEBYLEX', set, ARGV[1], '+', 'LIMIT', 0, most)
    for _, key in ipairs(some) do keys[key] = true end
    if #some == most and (not last or some[most] < last) then last = some[most] end
end
gather(P .. 'itemkeys')
gather(P .. 'basekeys:' .. base)
local found, items = {}, {}
for key in pairs(keys) do
    if not last or key <= last then found[#found + 1] = key end
end
table.sort(found)
for at, key in ipairs(found) do
    items[at] = redis.call('HGET', P .. 'items', key)
        or redis.call('HGET', P .. 'baseitems:' .. base, key) or ''
end
return {found, items, last or ''}
"""
)

# What PACKED says of the entries of a stream: ids, and of each its columns, or its JSON.
_PACKED = """
local function packed(stream, hash, first, last, most, wanted)
    local ids, parts = {}, {}
    for at, entry in ipairs(redis.call('XRANGE', P .. stream, first, last, 'COUNT', most)) do
        local name = entry[1]
        if stream == 'events' then name = string.match(name, '^%d+') end
        local text = redis.call('HGET', P .. hash, name)
        local length = struct.unpack('>I4', text)
        ids[at] = name
        if wanted == 'columns' then
            parts[at] = string.sub(text, 5, 4 + length)
        else
            parts[at] = string.sub(text, 5 + length)
        end
    end
    return ids, parts
end
"""

# ARGV: a number, the most. Returns head, numbers of events, columns of each, items as key, number,
# key, number ...; their JSON.
CHANGES = (
    _BEGIN
    + _PACKED
    + """
local after = number(tonumber(ARGV[1]) + 1)
local numbers, columns = packed('events', 'details', after .. '-0', '+', ARGV[2], 'columns')
local items = redis.call(
    'ZRANGEBYSCORE', P .. 'itemlog', after, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local texts = {}
for at = 1, #items, 2 do texts[#texts + 1] = redis.call('HGET', P .. 'items', items[at]) end
return {redis.call('GET', P .. 'head') or '0', numbers, columns, items, texts}
"""
)

# ARGV: first and last number, the most. Returns numbers, and JSON of each.
EVENTS = (
    _BEGIN
    + _PACKED
    + """
return {packed('events', 'details', ARGV[1] .. '-0', ARGV[2] .. '-0', ARGV[3], 'details')}
"""
)

# ARGV: stream, hash, an id to begin at, the most. Returns ids, and columns of each.
OLDEST = (
    _BEGIN
    + _PACKED
    + """
return {packed(ARGV[1], ARGV[2], ARGV[3], '+', ARGV[4], 'columns')}
"""
)

# ARGV: of each event: number, user.
DROP_EVENTS = (
    _BEGIN
    + """
for at = 1, #ARGV, 2 do
    local id = ARGV[at] .. '-0'
    local entry = redis.call('XRANGE', P .. 'events', id, id)[1]
    if entry then
        redis.call('HDEL', P .. 'ids', entry[2][2])
        redis.call('XDEL', P .. 'events', id)
        redis.call('HDEL', P .. 'details', ARGV[at])
        redis.call('LREM', P .. 'of:' .. ARGV[at + 1], 1, ARGV[at])
    end
end
"""
)

# ARGV: of each page: stream id, user.
DROP_EXPOSURES = (
    _BEGIN
    + """
for at = 1, #ARGV, 2 do
    redis.call('XDEL', P .. 'exposures', ARGV[at])
    redis.call('HDEL', P .. 'exposure', ARGV[at])
    redis.call('LREM', P .. 'exposed:' .. ARGV[at + 1], 1, ARGV[at])
end
"""
)

# ARGV: of each user: digest, key. Returns head.
FORGET = (
    _BEGIN
    + """
local base = redis.call('GET', P .. 'base') or ''
local importing = redis.call('GET', P .. 'importing') or ''
for at = 1, #ARGV, 2 do
    local user = ARGV[at + 1]
    for _, sequence in ipairs(redis.call('LRANGE', P .. 'of:' .. user, 0, -1)) do
        local id = sequence .. '-0'
        local entry = redis.call('XRANGE', P .. 'events', id, id)[1]
        if entry then redis.call('HDEL', P .. 'ids', entry[2][2]) end
        redis.call('XDEL', P .. 'events', id)
        redis.call('HDEL', P .. 'details', sequence)
    end
    for _, id in ipairs(redis.call('LRANGE', P .. 'exposed:' .. user, 0, -1)) do
        redis.call('XDEL', P .. 'exposures', id)
        redis.call('HDEL', P .. 'exposure', id)
    end
    for _, name in ipairs({'of:', 'tail:', 'live:', 'shown:', 'exposed:'}) do
        redis.call('DEL', P .. name .. user)
    end
    redis.call('HDEL', P .. 'base:' .. base, user)
    redis.call('HDEL', P .. 'base:' .. importing, user)
    redis.call('SADD', P .. 'forgotten', ARGV[at])
end
return number(redis.call('INCR', P .. 'head'))
"""
)

# Returns the import's number; what an earlier one left half done goes.
BEGIN_IMPORT = (
    _BEGIN
    + """
local left = redis.call('GET', P .. 'importing')
if left then
    for _, name in ipairs({'base:', 'baseitems:', 'basekeys:'}) do
        redis.call('UNLINK', P .. name .. left)
    end
end
local mine = number(redis.call('INCR', P .. 'imports'))
redis.call('SET', P .. 'importing', mine)
return mine
"""
)

# ARGV: the import's number; of each user: digest, key, profile. Returns 0 = overtaken by another.
IMPORT_PROFILES = (
    _BEGIN
    + """
if redis.call('GET', P .. 'importing') ~= ARGV[1] then return 0 end
for at = 2, #ARGV, 3 do
    if redis.call('SISMEMBER', P .. 'forgotten', ARGV[at]) == 0 then
        redis.call('HSET', P .. 'base:' .. ARGV[1], ARGV[at + 1], ARGV[at + 2])
    end
end
return 1
"""
)

# ARGV: the import's number; of each item: key, JSON.
IMPORT_ITEMS = (
    _BEGIN
    + """
if redis.call('GET', P .. 'importing') ~= ARGV[1] then return 0 end
for at = 2, #ARGV, 2 do
    redis.call('HSET', P .. 'baseitems:' .. ARGV[1], ARGV[at], ARGV[at + 1])
    redis.call('ZADD', P .. 'basekeys:' .. ARGV[1], 0, ARGV[at])
end
return 1
"""
)

# ARGV: the import's number.
END_IMPORT = (
    _BEGIN
    + """
if redis.call('GET', P .. 'importing') ~= ARGV[1] then return 0 end
local old = redis.call('GET', P .. 'base')
redis.call('SET', P .. 'base', ARGV[1])
redis.call('DEL', P .. 'importing')
if old then
    for _, name in ipairs({'base:', 'baseitems:', 'basekeys:'}) do
        redis.call('UNLINK', P .. name .. old)
    end
end
return 1
"""
)
