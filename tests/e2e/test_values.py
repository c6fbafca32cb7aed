"""Every type and order, on every kind of line, against what pymodbus holds."""

import json
import math

import pytest
from pymodbus.client import ModbusTcpClient
from pymodbus.framer import FramerType

from modbus_peer import SerialPeer, TcpPeer, device
from waiting import eventually

KINDS = ModbusTcpClient.DATATYPE
ORDERS = ("abcd", "cdab", "badc", "dcba")
NUMBERS = {
    "i16": (KINDS.INT16, -12345),
    "u16": (KINDS.UINT16, 54321),
    "i32": (KINDS.INT32, -1234567890),
    "u32": (KINDS.UINT32, 3123456789),
    "i64": (KINDS.INT64, -1234567890123456789),
    "u64": (KINDS.UINT64, 12345678901234567890),
    "f32": (KINDS.FLOAT32, 230.1),
    "f64": (KINDS.FLOAT64, -0.1),
}


def as_registers(kind, value, order):
    """pymodbus lays the words; swapping the bytes of a word is the one thing it has no word for."""
    word_order = "little" if order in ("cdab", "dcba") else "big"
    registers = ModbusTcpClient.convert_to_registers(value, kind, word_order=word_order)
    return swapped(registers) if order in ("badc", "dcba") else registers


def swapped(registers):
    return [(r & 0xFF) << 8 | r >> 8 for r in registers]


class Map:
    """Registers and the YAML of the points that lie there, grown together so that they cannot disagree."""

    def __init__(self):
        self.registers, self.points, self.want = [], [], {}

    def add(self, name, registers, keys, want):
        self.points.append(f"      {name}: {{holding: {len(self.registers)}, {keys}}}")
        self.registers += registers
        self.want[name] = want


def good(value):
    return {"value": value, "quality": "good"}


def bad(reason):
    return {"value": None, "quality": "bad", "reason": reason}


def whole_map():
    m = Map()
    for order in ORDERS:
        for name, (kind, value) in NUMBERS.items():
            m.add(f"{name}_{order}", as_registers(kind, value, order), f"type: {name}, order: {order}", good(value))
    bcd = {"abcd": [0x1234, 0x5678], "cdab": [0x5678, 0x1234], "badc": [0x3412, 0x7856], "dcba": [0x7856, 0x3412]}
    for order, registers in bcd.items():
        m.add(f"bcd32_{order}", registers, f"type: bcd32, order: {order}", good(12345678))
    m.add("bcd16", [0x9876], "type: bcd16", good(9876))
    m.add("bcd16_not", [0x98A6], "type: bcd16", bad("not bcd"))
    text = ModbusTcpClient.convert_to_registers("Trunkline\0", KINDS.STRING)
    m.add("text", text, "type: string(10)", good("Trunkline"))
    m.add("text_swapped", swapped(text), "type: string(10), order: badc", good("Trunkline"))
    m.add("flag", [1], "type: bool", good(True))
    m.add("bit_set", [0b1000], "bit: 3", good(True))
    m.add("bit_clear", [0b0111], "bit: 3", good(False))
    m.add("bits", [0b1010_0110_1111], "bits: 4-7", good(6))
    m.add("named", [2], "values: {0: stopped, 1: cooling, 2: defrost}", good("defrost"))
    m.add("scaled", [232], "type: i16, scale: 0.1, unit: °C", {**good(23.2), "unit": "°C"})
    m.add("offset", [250], "type: i16, scale: 0.5, offset: -40", good(85))
    m.add("rounded", [12345], "scale: 0.001, decimals: 1", good(12.3))
    m.add("missing", [0x8000], "type: i16, invalid: [0x8000]", bad("not available"))
    m.add("zero_is_no_sentinel", [0], "type: i16, scale: 0.1, invalid: [0x8000, 0xFFFF]", good(0))
    m.add("outside", [900], "range: [0, 500]", bad("out of range"))
    m.add("inside", [500], "range: [0, 500]", good(500))
    m.add("nan", [0x7FC0, 0], "type: f32", bad("not a number"))
    m.add("exponent", [0xFFFE], "type: i16", good(-2))
    m.add("sunspec", [12345], "type: i16, scale_from: exponent", good(123.45))
    return m


YAML = """
gateway: plant
lines:
  one: {line}
devices:
  - name: dut
    line: one
    unit_id: 7
    points:
      coil_on: {{coil: 0}}
      coil_off: {{coil: 1}}
      discrete_on: {{discrete: 5}}
      input_word: {{input: 3}}
      by_manual: {{modicon: 30004}}
      beyond: {{holding: 2000}}
{points}
schedules: {{normal: {{every: 300ms}}}}
broker:
  listen: [{{tcp: 127.0.0.1:{port}}}]
"""


def peer_of(kind, dut):
    if kind == "rtu":
        return SerialPeer(dut)
    return TcpPeer(dut, FramerType.RTU if kind == "rtu_over_tcp" else FramerType.SOCKET)


@pytest.mark.parametrize("kind", ["rtu", "tcp", "rtu_over_tcp"])
def test_values_of_every_type_and_order_arrive_right(kind, make_gateway, begin, witness, port):
    m = whole_map()
    dut = device(7, m.registers, [0, 0, 0, 4711], [True, False], [False] * 5 + [True])
    peer = begin(peer_of(kind, [dut]).start())
    want = {**m.want, "coil_on": good(True), "coil_off": good(False), "discrete_on": good(True),
            "input_word": good(4711), "by_manual": good(4711), "beyond": bad("exception 2")}
    make_gateway(YAML.format(line=peer.line(), points="\n".join(m.points), port=port)).start()
    local = witness(port, "plant/dut/+")
    eventually(lambda: {f"plant/dut/{name}" for name in want} <= local.topics(), hoped="every point was published")

    wrong = {}
    for name, expected in want.items():
        seen = local.json(f"plant/dut/{name}")
        time = seen.pop("time")
        assert time.endswith("Z") and len(time) == len("2026-11-21T01:02:03.456Z"), time
        if not same(seen, expected):
            wrong[name] = (seen, expected)
    assert not wrong, json.dumps(wrong, indent=1, ensure_ascii=False)


def same(seen, expected):
    """Exact, but for a single float, which pymodbus itself holds with 24 bits only."""
    value, want = seen.get("value"), expected["value"]
    if isinstance(want, float) and value is not None and not isinstance(value, (str, bool)):
        return math.isclose(value, want, rel_tol=1e-7) and {**seen, "value": want} == expected
    return type(value) is type(want) and seen == expected or (isinstance(want, int) and not isinstance(want, bool)
                                                              and seen == expected)


def test_scaled_numbers_are_printed_as_a_person_writes_them(make_gateway, begin, witness, port):
    peer = begin(TcpPeer([device(7, [232, 1, 3])]).start())
    points = "\n".join(f"      p{n}: {{holding: {n}, type: i16, scale: 0.1}}" for n in range(3))
    text = YAML.replace("      beyond: {{holding: 2000}}\n", "")
    make_gateway(text.format(line=peer.line(), points=points, port=port)).start()
    local = witness(port, "plant/dut/+")
    eventually(lambda: {f"plant/dut/p{n}" for n in range(3)} <= local.topics(), hoped="the points were published")
    for n, number in enumerate(["23.2", "0.1", "0.3"]):
        assert f'"value":{number},'.encode() in local.last(f"plant/dut/p{n}")


def test_a_changed_register_is_a_new_message_and_an_unchanged_one_is_none(make_gateway, begin, witness, port):
    peer = begin(TcpPeer([device(7, [10, 20])]).start())
    points = "      moving: {holding: 0, every: 50ms}\n      still: {holding: 1, every: 50ms}"
    text = YAML.replace("      beyond: {{holding: 2000}}\n", "")
    make_gateway(text.format(line=peer.line(), points=points, port=port)).start()
    local = witness(port, "plant/dut/moving", "plant/dut/still")
    eventually(lambda: len(local.topics()) == 2, hoped="both were published once")
    for value in range(11, 21):
        peer.put(7, 0, [value])
        eventually(lambda: local.json("plant/dut/moving")["value"] == value, hoped=f"{value} arrives")
    assert len(local.by_topic["plant/dut/moving"]) in (10, 11)
    assert len(local.by_topic["plant/dut/still"]) <= 1
