"""By which function a device is written: seen as frames by a device that is not our own code."""

import json

from pymodbus.framer import FramerType

from modbus_peer import TcpPeer, device
from waiting import eventually

YAML = """
gateway: plant
lines:
  plc: {line}
devices:
  - {{name: usual, line: plc, unit_id: 1, every: 1h, points: {points}}}
  - {{name: stubborn, line: plc, unit_id: 2, every: 1h, functions: [1, 3, 15, 16], points: {points}}}
  - {{name: modern, line: plc, unit_id: 3, every: 1h, functions: [1, 3, 5, 6, 16, 22, 23], points: {points}}}
  - {{name: forced, line: plc, unit_id: 4, every: 1h, points: {{
      coil: {{coil: 2, write: {{function: 15}}}},
      word: {{holding: 0, write: {{function: 16}}}},
      bit: {{holding: 5, bit: 4, write: {{function: 6, verify: false}}}}}}}}
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
"""
POINTS = """{
      coil: {coil: 2, write: true},
      lamp: {coil: 3, write: true},
      word: {holding: 0, write: true},
      long: {holding: 1, type: u32, write: true},
      next: {holding: 3, write: {verify: false}},
      bit: {holding: 5, bit: 4, write: {verify: false}}}"""
HOLDS = [1, 0, 2, 3, 0, 0x8001]


def site(make_gateway, begin, witness, port, framer=FramerType.SOCKET):
    peer = begin(TcpPeer([device(unit, HOLDS, None, [False] * 4) for unit in (1, 2, 3, 4)], framer).start())
    make_gateway(YAML.format(line=peer.line(), port=port, points=POINTS)).start()
    near = witness(port, "plant/#")
    for name in ("usual", "stubborn", "modern", "forced"):
        eventually(lambda: near.json(f"plant/{name}/word")["value"] == 1, hoped=f"{name} is read")
    return peer, near


def write(peer, near, topic, payload):
    """Publishes a command, waits for its answer, and gives it with what the device was asked meanwhile."""
    before, asked = len(near.by_topic[f"{topic}/result"]), len(peer.frames)
    near.client.publish(topic, payload, qos=1)
    eventually(lambda: len(near.by_topic[f"{topic}/result"]) > before, hoped=f"{topic} {payload} is answered")
    return json.loads(near.by_topic[f"{topic}/result"][before]), [frame.hex(" ") for frame in peer.frames[asked:]]


def frames_of(peer, near, unit, point, value):
    name = {1: "usual", 2: "stubborn", 3: "modern", 4: "forced"}[unit]
    answer, frames = write(peer, near, f"plant/{name}/{point}/set", json.dumps(value))
    assert answer["result"] == "written", answer
    return frames


def test_each_point_is_written_by_the_function_its_device_knows(make_gateway, begin, witness, port):
    peer, near = site(make_gateway, begin, witness, port)
    assert frames_of(peer, near, 1, "coil", True) == ["01 05 00 02 ff 00", "01 01 00 02 00 01"]
    assert frames_of(peer, near, 1, "word", 7) == ["01 06 00 00 00 07", "01 03 00 00 00 01"]
    assert frames_of(peer, near, 1, "long", 65537) == ["01 10 00 01 00 02 04 00 01 00 01", "01 03 00 01 00 02"]
    assert frames_of(peer, near, 1, "bit", True)[0] == "01 16 00 05 ff ef 00 10"
    both = {"writes": [{"point": "coil", "value": True}, {"point": "lamp", "value": True}]}
    assert write(peer, near, "plant/usual/set", json.dumps(both))[1][0] == "01 0f 00 02 00 02 01 03", "coils in a run"
    assert frames_of(peer, near, 2, "coil", True) == ["02 0f 00 02 00 01 01 01", "02 01 00 02 00 01"]
    assert frames_of(peer, near, 2, "word", 7) == ["02 10 00 00 00 01 02 00 07", "02 03 00 00 00 01"]
    assert frames_of(peer, near, 2, "bit", True)[:2] == ["02 03 00 05 00 01", "02 10 00 05 00 01 02 80 11"]
    assert frames_of(peer, near, 4, "coil", True)[0] == "04 0f 00 02 00 01 01 01"
    assert frames_of(peer, near, 4, "word", 7)[0] == "04 10 00 00 00 01 02 00 07"
    assert frames_of(peer, near, 4, "bit", True)[:2] == ["04 03 00 05 00 01", "04 06 00 05 80 11"]


def test_a_write_and_its_verification_are_one_transaction_where_the_device_can(make_gateway, begin, witness, port):
    peer, near = site(make_gateway, begin, witness, port, FramerType.RTU)
    assert frames_of(peer, near, 3, "word", 7) == ["03 17 00 00 00 01 00 00 00 01 02 00 07"]
    eventually(lambda: near.json("plant/modern/word")["value"] == 7, hoped="what was read back is published")
    assert frames_of(peer, near, 3, "long", 5) == ["03 17 00 01 00 02 00 01 00 02 04 00 00 00 05"]
    whole = {"writes": [{"point": "word", "value": 8}, {"point": "long", "value": 9}]}
    answer, frames = write(peer, near, "plant/modern/set", json.dumps(whole))
    assert [w["value"] for w in answer["writes"]] == [8, 9]
    assert frames == ["03 17 00 00 00 03 00 00 00 03 06 00 08 00 00 00 09"]
    whole["writes"].append({"point": "next", "value": 4})
    answer, frames = write(peer, near, "plant/modern/set", json.dumps(whole))
    assert answer["result"] == "written", answer
    assert frames[0] == "03 10 00 00 00 04 08 00 08 00 00 00 09 00 04", "not all of it is verified"


def test_a_device_that_refuses_mask_write_is_asked_for_it_once(make_gateway, begin, witness, port):
    peer, near = site(make_gateway, begin, witness, port, FramerType.RTU)
    peer.maskless.add(1)
    assert frames_of(peer, near, 1, "bit", True)[:3] == [
        "01 16 00 05 ff ef 00 10", "01 03 00 05 00 01", "01 06 00 05 80 11"]
    assert frames_of(peer, near, 1, "bit", False)[:2] == ["01 03 00 05 00 01", "01 06 00 05 80 01"]
