"""Python's protobuf as the judge: makes messages, and checks what became of them.

reference.py SET generate SEED COUNT   a line for each message: wire in hex, JSON, JSON with defaults
reference.py SET check                 lines of wire in hex, our JSON, our JSON with defaults, our wire in hex
"""
import json
import random
import struct
import sys

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.internal import type_checkers

# The shortest digits of the largest float are a little more than it as a double.
# They round back to it, yet the judge refuses to read what it prints itself.
type_checkers._FLOAT_MAX, type_checkers._FLOAT_MIN = 3.4028235e38, -3.4028235e38

CPP = {"DOUBLE": 1, "FLOAT": 2, "INT64": 3, "UINT64": 4, "INT32": 5, "FIXED64": 6, "FIXED32": 7, "BOOL": 8,
       "STRING": 9, "MESSAGE": 11, "BYTES": 12, "UINT32": 13, "ENUM": 14, "SFIXED32": 15, "SFIXED64": 16,
       "SINT32": 17, "SINT64": 18}
NAMES = {number: name for name, number in CPP.items()}
LIMITS = {"INT32": (-2**31, 2**31 - 1), "INT64": (-2**63, 2**63 - 1), "UINT32": (0, 2**32 - 1),
          "UINT64": (0, 2**64 - 1), "SINT32": (-2**31, 2**31 - 1), "SINT64": (-2**63, 2**63 - 1),
          "FIXED32": (0, 2**32 - 1), "FIXED64": (0, 2**64 - 1), "SFIXED32": (-2**31, 2**31 - 1),
          "SFIXED64": (-2**63, 2**63 - 1)}
TEXTS = ["", "a", "hello", "\"quoted\\\" \n\t\r\b\f\x00\x1f\x7f", "Grüße, 世界", "😀 \u2028\u2029", "x" * 200, "a" * 15 + "\"" + "b" * 20,
         "</script>", "é" * 70]


def load(path):
    files = descriptor_pb2.FileDescriptorSet.FromString(open(path, "rb").read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool, lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


class Maker:
    def __init__(self, chance, pool, cls):
        self.chance, self.pool, self.cls = chance, pool, cls

    def scalar(self, field):
        kind, chance = NAMES[field.type], self.chance
        if kind in LIMITS:
            low, high = LIMITS[kind]
            pick = chance.random()
            if pick < 0.3:
                return chance.choice([low, high, 0, low + 1, high - 1])
            if pick < 0.6:
                return max(low, min(high, chance.randint(-200, 200)))
            return chance.randint(low, high)
        if kind == "BOOL":
            return chance.random() < 0.5
        if kind == "STRING":
            return chance.choice(TEXTS)
        if kind == "BYTES":
            return bytes(chance.randrange(256) for _ in range(chance.choice([0, 1, 2, 3, 30])))
        if kind == "ENUM":
            if field.enum_type.full_name == "google.protobuf.NullValue":
                return 0
            return chance.choice([0, 1, 100000, -3, 7, -2**31, 2**31 - 1])
        special = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.5, -1e-7, 1e21, 5e-324, 1.7976931348623157e308]
        if kind == "FLOAT":
            value = struct.unpack("<f", struct.pack("<I", chance.randrange(2**32)))[0]
            special = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 0.1, 16777217.0, 1e-45, 3.4028234663852886e38]
        else:
            value = struct.unpack("<d", struct.pack("<Q", chance.randrange(2**64)))[0]
        return chance.choice(special) if chance.random() < 0.4 else value

    def message(self, message, depth):
        name, chance = message.DESCRIPTOR.full_name, self.chance
        message.SetInParent()
        if name == "google.protobuf.Timestamp":
            message.seconds = chance.choice([-62135596800, 253402300799, 0, -1, chance.randint(-62135596800, 253402300799)])
            message.nanos = chance.choice([0, 1, 999999999, 500000000, 123456000])
        elif name == "google.protobuf.Duration":
            message.seconds = chance.choice([-315576000000, 315576000000, 0, chance.randint(-10**6, 10**6)])
            nanos = chance.choice([0, 1, 999999999, 500000000, 123456000])
            message.nanos = -nanos if message.seconds < 0 or (message.seconds == 0 and chance.random() < 0.5) else nanos
        elif name == "google.protobuf.FieldMask":
            message.paths.extend(chance.sample(["a", "b_c", "d.e_f.g", "x1_y2z"], chance.randrange(4)))
        elif name == "google.protobuf.Struct":
            for _ in range(chance.randrange(3)):
                self.value(message.fields[chance.choice(TEXTS)], depth - 1)
        elif name == "google.protobuf.ListValue":
            for _ in range(chance.randrange(3)):
                self.value(message.values.add(), depth - 1)
        elif name == "google.protobuf.Value":
            self.value(message, depth)
        elif name == "google.protobuf.Any":
            inner = self.cls(chance.choice(["t.Small", "t.Small", "google.protobuf.Timestamp", "google.protobuf.Int64Value"]))()
            self.message(inner, depth - 1)
            message.Pack(inner)
        elif name.endswith("Value") and name.startswith("google.protobuf."):
            message.value = self.scalar(message.DESCRIPTOR.fields_by_name["value"])
        else:
            self.fields(message, depth)

    def value(self, value, depth):
        chance = self.chance
        kind = chance.randrange(6 if depth > 0 else 4)
        if kind == 0:
            value.null_value = 0
        elif kind == 1:
            value.number_value = chance.choice([0.0, 1.0, -2.5, 1e300, 12345678.0])
        elif kind == 2:
            value.string_value = chance.choice(TEXTS)
        elif kind == 3:
            value.bool_value = chance.random() < 0.5
        elif kind == 4:
            self.message(value.struct_value, depth)
        else:
            self.message(value.list_value, depth)

    def fields(self, message, depth):
        chance = self.chance
        share = chance.choice([0.03, 0.1, 0.5])
        for field in message.DESCRIPTOR.fields:
            if chance.random() > share or (field.message_type and depth <= 0):
                continue
            if field.is_repeated and field.message_type and field.message_type.GetOptions().map_entry:
                entries, value = getattr(message, field.name), field.message_type.fields_by_name["value"]
                for _ in range(chance.choice([0, 1, 2, 12])):
                    key = self.scalar(field.message_type.fields_by_name["key"])
                    if value.message_type:
                        self.message(entries[key], depth - 1)
                    else:
                        entries[key] = self.scalar(value)
            elif field.is_repeated:
                for _ in range(chance.choice([0, 1, 2, 5])):
                    if field.message_type:
                        self.message(getattr(message, field.name).add(), depth - 1)
                    else:
                        getattr(message, field.name).append(self.scalar(field))
            elif field.message_type:
                self.message(getattr(message, field.name), depth - 1)
            else:
                setattr(message, field.name, self.scalar(field))


def varint(value):
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def pieces(wire):
    """The top-level fields of a message, each with its tag."""
    at, found = 0, []

    def read(at):
        value, shift = 0, 0
        while True:
            value |= (wire[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if wire[at - 1] < 0x80:
                return value, at
    while at < len(wire):
        start = at
        tag, at = read(at)
        if tag & 7 == 0:
            _, at = read(at)
        elif tag & 7 == 1:
            at += 8
        elif tag & 7 == 5:
            at += 4
        else:
            length, at = read(at)
            at += length
        found.append(wire[start:at])
    return found


def unknown(chance):
    """Fields no definition has, a group among them."""
    return chance.choice([
        varint(700 << 3) + varint(chance.randrange(2**64)),
        varint(701 << 3 | 1) + bytes(8),
        varint(702 << 3 | 2) + varint(5) + b"\xff\x00\x80ab",
        varint(703 << 3 | 5) + bytes(4),
        varint(704 << 3 | 3) + varint(1 << 3) + varint(5) + varint(2 << 3 | 3) + varint(2 << 3 | 4) + varint(704 << 3 | 4),
        # A number the definitions have, with another wire type.
        varint(14 << 3) + varint(1),
        varint(3 << 3 | 5) + bytes(4),
    ])


def generate(pool, cls, seed, count):
    chance = random.Random(seed)
    maker = Maker(chance, pool, cls)
    kind = cls("t.All")
    made = 0
    while made < count:
        message = kind()
        maker.fields(message, chance.choice([1, 2, 4]))
        wire = message.SerializeToString()
        way = chance.randrange(6)
        if way == 1:
            other = kind()
            maker.fields(other, 3)
            wire += other.SerializeToString()
        elif way == 2:
            parts = pieces(wire)
            chance.shuffle(parts)
            wire = b"".join(parts)
        elif way == 3:
            parts = pieces(wire) + [unknown(chance) for _ in range(3)]
            chance.shuffle(parts)
            wire = b"".join(parts)
        elif way == 4:
            parts = pieces(wire)
            wire = b"".join(parts + chance.sample(parts, min(3, len(parts))))
        message = kind.FromString(wire)
        try:
            plain = json_format.MessageToJson(message, indent=None, descriptor_pool=pool)
            full = json_format.MessageToJson(message, indent=None, descriptor_pool=pool, always_print_fields_with_no_presence=True)
        except json_format.SerializeToJsonError:
            # Two times that were merged may be out of range.
            continue
        made += 1
        print(wire.hex() or "-", plain, full, sep="\t")


def same(one, other):
    """Numbers may be written in different ways."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        # Of a float Python prints fewer digits than others read back.
        return float(one) == float(other) or struct.pack("<f", one) == struct.pack("<f", other)
    return one == other


def bare(message):
    """Bytes by which two messages can be compared, NaN and all."""
    message.DiscardUnknownFields()
    return message.SerializeToString(deterministic=True)


def check(pool, cls):
    kind = cls("t.All")
    faults = 0
    for number, line in enumerate(sys.stdin):
        hex_wire, ours, ours_full, hex_back = line.rstrip("\n").split("\t")
        message = kind.FromString(bytes.fromhex(hex_wire.replace("-", "")))
        wanted = json.loads(json_format.MessageToJson(message, indent=None, descriptor_pool=pool))
        full = json.loads(json_format.MessageToJson(message, indent=None, descriptor_pool=pool, always_print_fields_with_no_presence=True))
        problems = []
        if not same(json.loads(ours), wanted):
            problems.append(f"JSON\n  ours   {ours}\n  wanted {json.dumps(wanted)}")
        if not same(json.loads(ours_full), full):
            problems.append(f"JSON with defaults\n  ours   {ours_full}\n  wanted {json.dumps(full)}")
        back = kind.FromString(bytes.fromhex(hex_back.replace("-", "")))
        through = json_format.Parse(json.dumps(wanted), kind(), descriptor_pool=pool)
        # Not the bytes of the wire: a NaN loses its payload in any JSON.
        if bare(json_format.Parse(ours, kind(), descriptor_pool=pool)) != bare(through):
            problems.append(f"our JSON says something else\n  ours   {ours}\n  wanted {json.dumps(wanted)}")
        if bare(back) != bare(through):
            problems.append(f"wire\n  ours   {back}\n  wanted {through}")
        if problems:
            faults += 1
            print(f"message {number}:", "\n".join(problems))
            if faults == 5:
                break
    print("checked", number + 1)
    sys.exit(1 if faults else 0)


def main():
    pool, cls = load(sys.argv[1])
    if sys.argv[2] == "generate":
        generate(pool, cls, int(sys.argv[3]), int(sys.argv[4]))
    else:
        check(pool, cls)


main()
