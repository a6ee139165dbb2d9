-- JSON to frames and back, and WebSocket to frames, in nginx.
--
-- What lua-protobuf would do in C is plain Lua here, compiled by LuaJIT: Debian
-- has no package of it. JSON is Debian's lua-cjson. Numbers of 64 bits come and
-- go as texts, since cjson writes 14 digits.

local bit = require "bit"
local cjson = require "cjson.safe"
local ffi = require "ffi"

local byte, char, sub = string.byte, string.char, string.sub
local band, rshift, bxor = bit.band, bit.rshift, bit.bxor
local concat = table.concat

local _M = {}

local TYPES = {
    CONTENT_TYPE_UNSPECIFIED = 0, CONTENT_TYPE_TEXT = 1, CONTENT_TYPE_IMAGE = 2, CONTENT_TYPE_FILE = 3,
}
local NAMES = {}
for name, number in pairs(TYPES) do NAMES[number] = name end

local function varint(out, at, number)
    while number >= 0x80ULL do
        out[at] = char(tonumber(band(number, 0x7FULL)) + 0x80)
        at = at + 1
        number = rshift(number, 7)
    end
    out[at] = char(tonumber(number))
    return at + 1
end

local function unsigned(text)
    local number = 0ULL
    for index = 1, #text do
        local digit = byte(text, index) - 48
        if digit < 0 or digit > 9 then return nil end
        number = number * 10ULL + digit
    end
    return number
end

-- im.v1.SendRequest; nil and the field where something is wrong.
local function encode(message)
    local out, at = {}, 1
    for name in pairs(message) do
        if name ~= "to" and name ~= "clientMessageId" and name ~= "type" and name ~= "text" and name ~= "data" then
            return nil, name
        end
    end
    if message.to then
        if type(message.to) ~= "number" then return nil, "to" end
        out[at] = "\8"
        at = varint(out, at + 1, ffi.cast("uint64_t", message.to))
    end
    if message.clientMessageId then
        local number = unsigned(message.clientMessageId)
        if not number then return nil, "clientMessageId" end
        out[at] = "\16"
        at = varint(out, at + 1, number)
    end
    if message.type then
        local number = TYPES[message.type]
        if not number then return nil, "type" end
        out[at] = "\24"
        at = varint(out, at + 1, ffi.cast("uint64_t", number))
    end
    if message.text then
        out[at] = "\34"
        at = varint(out, at + 1, ffi.cast("uint64_t", #message.text))
        out[at] = message.text
        at = at + 1
    end
    if message.data then
        local data = ngx.decode_base64(message.data)
        if not data then return nil, "data" end
        out[at] = "\42"
        at = varint(out, at + 1, ffi.cast("uint64_t", #data))
        out[at] = data
    end
    return concat(out)
end

local function read_varint(bytes, at)
    local number, shift = 0ULL, 0
    while true do
        local part = byte(bytes, at)
        if not part then return nil end
        at = at + 1
        number = number + bit.lshift(ffi.cast("uint64_t", band(part, 0x7F)), shift)
        if part < 0x80 then return number, at end
        shift = shift + 7
        if shift > 63 then return nil end
    end
end

local function decode(bytes)
    local message, at = {}, 1
    while at <= #bytes do
        local tag, number, length
        tag, at = read_varint(bytes, at)
        if not tag then return nil end
        tag = tonumber(tag)
        local field, wire = rshift(tag, 3), band(tag, 7)
        number, at = read_varint(bytes, at)
        if not number then return nil end
        if wire == 0 then
            if field == 1 then
                message.to = tonumber(number)
            elseif field == 2 then
                message.clientMessageId = sub(tostring(number), 1, -4)
            elseif field == 3 then
                message.type = NAMES[tonumber(number)] or tonumber(number)
            end
        elseif wire == 2 then
            length = tonumber(number)
            local value = sub(bytes, at, at + length - 1)
            at = at + length
            if field == 4 then
                message.text = value
            elseif field == 5 then
                message.data = ngx.encode_base64(value)
            end
        else
            return nil
        end
    end
    return message
end

local function number32(number)
    return char(band(rshift(number, 24), 255), band(rshift(number, 16), 255), band(rshift(number, 8), 255), band(number, 255))
end

local function frame(command, sequence, user, body)
    return concat({
        "\9\0\1\0\0", char(rshift(command, 8), band(command, 255), rshift(sequence, 8), band(sequence, 255)),
        number32(user), "\0\0\0\0", number32(#body), body, "\10",
    })
end

local function connect()
    local upstream = ngx.socket.tcp()
    upstream:settimeout(10000)
    local host, port = ngx.var.tlv_origin:match("^(.*):(%d+)$")
    local good, problem = upstream:connect(host, tonumber(port), { pool_size = 256 })
    if not good then return nil, problem end
    return upstream
end

-- The next frame, whole, and its body.
local function receive(upstream)
    local head, problem = upstream:receive(21)
    if not head then return nil, problem end
    if byte(head, 1) ~= 9 then return nil, "no frame" end
    local a, b, c, d = byte(head, 18, 21)
    local length = ((a * 256 + b) * 256 + c) * 256 + d
    if length > 65536 then return nil, "too large" end
    local rest
    rest, problem = upstream:receive(length + 1)
    if not rest then return nil, problem end
    if byte(rest, -1) ~= 10 then return nil, "no frame" end
    return head .. rest, sub(rest, 1, -2)
end

local function fail(status, message)
    ngx.status = status
    ngx.header["Content-Type"] = "application/json"
    ngx.print(cjson.encode({ error_msg = message }))
end

function _M.request()
    ngx.req.read_body()
    local message = cjson.decode(ngx.req.get_body_data() or "")
    if type(message) ~= "table" then return fail(400, "no JSON") end
    local body, field = encode(message)
    if not body then return fail(400, field) end
    local upstream, problem = connect()
    if not upstream then return fail(502, problem) end
    local good
    good, problem = upstream:send(frame(0x0301, 1, tonumber(ngx.var.http_x_user_id) or 0, body))
    if not good then return fail(502, problem) end
    local whole, reply = receive(upstream)
    if not whole then return fail(502, reply) end
    upstream:setkeepalive(300000, 256)
    local told = decode(reply)
    if not told then return fail(502, "no message") end
    local text = cjson.encode(told)
    ngx.header["Content-Type"] = "application/json"
    ngx.header["Content-Length"] = #text
    ngx.print(text)
end

-- Nanoseconds of this process a message takes each way, over `n` of them, and
-- what it makes of one.
function _M.messages()
    ngx.req.read_body()
    local text, n = ngx.req.get_body_data(), tonumber(ngx.var.arg_n)
    local wire = encode(cjson.decode(text))
    local json = cjson.encode(decode(wire))
    local begin = os.clock()
    for _ = 1, n do encode(cjson.decode(text)) end
    local middle = os.clock()
    for _ = 1, n do cjson.encode(decode(wire)) end
    local finish = os.clock()
    ngx.header["Content-Type"] = "application/json"
    local answer = cjson.encode({
        to_wire = (middle - begin) / n * 1e9, to_json = (finish - middle) / n * 1e9, json = json,
        wire = wire:gsub(".", function(octet) return string.format("%02x", byte(octet)) end),
    })
    ngx.header["Content-Length"] = #answer
    ngx.print(answer)
end

local mask_buffer = ffi.new("uint8_t[?]", 65536)

local function unmask(payload, mask)
    local length = #payload
    ffi.copy(mask_buffer, payload, length)
    local a, b, c, d = byte(mask, 1, 4)
    local key = ffi.new("uint8_t[4]", a, b, c, d)
    for index = 0, length - 1 do
        mask_buffer[index] = bxor(mask_buffer[index], key[band(index, 3)])
    end
    return ffi.string(mask_buffer, length)
end

-- A binary message is a frame, each way; an echo answers each.
function _M.websocket()
    local key = ngx.var.http_sec_websocket_key
    if not key then return fail(400, "no handshake") end
    ngx.status = 101
    ngx.header["Upgrade"] = "websocket"
    ngx.header["Connection"] = "Upgrade"
    ngx.header["Sec-WebSocket-Protocol"] = "sluice.im20"
    ngx.header["Sec-WebSocket-Accept"] =
        ngx.encode_base64(ngx.sha1_bin(key .. "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
    ngx.send_headers()
    ngx.flush(true)
    local client = ngx.req.socket(true)
    client:settimeout(300000)
    local upstream = connect()
    if not upstream then return end
    while true do
        local head = client:receive(2)
        if not head then return end
        local first, length = byte(head, 1, 2)
        if first ~= 0x82 or length < 0x80 then return end
        length = length - 0x80
        if length == 126 then
            local a, b = byte(client:receive(2), 1, 2)
            length = a * 256 + b
        elseif length == 127 then
            return
        end
        local mask = client:receive(4)
        local payload = client:receive(length)
        if not payload then return end
        payload = unmask(payload, mask)
        if byte(payload, 1) ~= 9 or byte(payload, -1) ~= 10 then return end
        upstream:send(payload)
        local whole = receive(upstream)
        if not whole then return end
        local size = #whole
        local header = size < 126 and char(0x82, size) or char(0x82, 126, rshift(size, 8), band(size, 255))
        client:send({ header, whole })
    end
end

return _M
