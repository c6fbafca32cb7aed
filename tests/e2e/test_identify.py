"""Which device it is: another model at the address is an alarm, its values are never published, and nothing is written to it."""

import json
import urllib.error
import urllib.request

from modbus_peer import TcpPeer, device
from waiting import eventually, free_port

PROFILE = """
title: A pump drive
source: written for this test
identify: {vendor: ACME, product_code: X-1*, register: {holding: 9, is: [120, 0x82]}}
points:
  setpoint: {holding: 0, write: true}
"""
YAML = """
gateway: plant
lines:
  plc: {line}
devices:
  - {{name: drive, line: plc, unit_id: 1, every: 200ms, profile: acme/x1}}
  - {{name: shy, line: plc, unit_id: 2, every: 200ms, profile: acme/x1}}
publish: {{report: {{when: poll}}}}
web: {{listen: 127.0.0.1:{web}}}
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
"""
RIGHT = {0: "ACME", 1: "X-1/b", 2: "7"}
WRONG = {0: "ACME", 1: "Y-9", 2: "7"}
TOPIC, STATE = "plant/drive/setpoint", "plant/drive/$state"
WHY = 'product code is "Y-9", expected "X-1*"'


def cabinet(says, model=120):
    """Unit 1 says something of itself; unit 2 does not know the question."""
    peer = TcpPeer([device(unit, [5, 0, 0, 0, 0, 0, 0, 0, 0, model]) for unit in (1, 2)])
    peer.identities[1] = says
    return peer


def site(make_gateway, begin, witness, port, peer):
    begin(peer.start())
    web = free_port()
    gateway = make_gateway(YAML.format(line=peer.line(), port=port, web=web))
    folder = gateway.folder / "profiles" / "acme"
    folder.mkdir(parents=True)
    (folder / "x1.yaml").write_text(PROFILE)
    gateway.start()
    return gateway, witness(port, "plant/#"), web


def fetch(web, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{web}{path}", timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


def set_point(near, value):
    before = len(near.by_topic[f"{TOPIC}/set/result"])
    near.client.publish(f"{TOPIC}/set", str(value), qos=1)
    eventually(lambda: len(near.by_topic[f"{TOPIC}/set/result"]) > before, hoped="the command is answered")
    return json.loads(near.by_topic[f"{TOPIC}/set/result"][before])


def alarms(gateway):
    return sum("another device" in line and "ERROR" in line for line in gateway.lines)


def values(near):
    """All that was ever published of the point as a value."""
    return [value for value in (json.loads(payload)["value"] for payload in near.by_topic[TOPIC]) if value is not None]


def test_another_model_is_an_alarm_and_neither_read_nor_written(make_gateway, begin, witness, port):
    peer = cabinet(WRONG)
    gateway, near, web = site(make_gateway, begin, witness, port, peer)
    eventually(lambda: near.json(STATE)["state"] == "offline", hoped="the alarm")
    state = near.json(STATE)
    assert (state["reason"], state["detail"]) == ("another device", WHY)
    eventually(lambda: near.json(TOPIC)["reason"] == "another device", hoped="the point is bad and says why")
    shown = gateway.command("status", "--socket", gateway.socket).stdout
    assert f"ALARM: device drive (unit 1) is another device: {WHY}" in shown.splitlines()[2], shown
    told = gateway.device("drive")
    assert (told["recognition"], told["state"], told["reason"]) == ("another", "offline", "another device")
    assert 'trunkline_device_another{line="plc",device="drive"} 1' in fetch(web, "/metrics")
    assert f"device drive (unit 1) is another device: {WHY}" in fetch(web, "/healthz")

    answer = set_point(near, 9)
    assert answer["result"] == "refused" and WHY in answer["reason"], answer
    near.client.publish(f"{TOPIC}/get", "", qos=1)
    eventually(lambda: near.by_topic[f"{TOPIC}/get/result"], hoped="a read on demand is answered")
    assert "another device" in json.loads(near.by_topic[f"{TOPIC}/get/result"][0])["reason"]
    asked = [frame for frame in peer.frames if frame[0] == 1]
    assert peer.get(1, 0) == 5 and not [frame for frame in asked if frame[1] in (5, 6, 15, 16, 22, 23)]
    assert len([frame for frame in asked if frame[1] == 3]) <= 1, "it was asked once whether it is there"

    peer.identities[1] = RIGHT
    eventually(lambda: near.json(STATE)["state"] == "online", within=20, hoped="the right one is known")
    eventually(lambda: near.json(TOPIC)["value"] == 5, hoped="and polled")
    assert set_point(near, 9)["result"] == "written"
    assert alarms(gateway) == 1, gateway.log()
    assert "ALARM" not in gateway.command("status", "--socket", gateway.socket).stdout


def test_a_device_that_cannot_say_is_polled_and_that_is_told(make_gateway, begin, witness, port):
    gateway, near, web = site(make_gateway, begin, witness, port, cabinet(RIGHT))
    eventually(lambda: near.json("plant/shy/setpoint")["value"] == 5, hoped="it is polled")
    shown = gateway.command("status", "--socket", gateway.socket).stdout
    assert "shy cannot be identified: it refuses function 43 with exception 1; polled as configured" in shown, shown
    assert gateway.saw("cannot be identified", "device=shy") and not gateway.saw("cannot be identified", "device=drive")
    assert gateway.device("shy")["recognition"] == "unknown" and gateway.device("drive")["recognition"] == "right"
    assert alarms(gateway) == 0 and "another device" not in fetch(web, "/healthz")


def test_the_device_that_comes_back_is_asked_again_who_it_is(make_gateway, begin, witness, port):
    peer = cabinet(RIGHT)
    gateway, near, _web = site(make_gateway, begin, witness, port, peer)
    eventually(lambda: near.json(TOPIC)["value"] == 5, hoped="the right one is polled")
    peer.stop()
    eventually(lambda: gateway.device("drive")["state"] == "offline", within=60, hoped="it is away")
    assert "try again" in set_point(near, 9)["reason"]
    other = cabinet(RIGHT, model=77)
    other.port = peer.port
    before = len(values(near))
    begin(other.start())
    why = 'holding 9 is "77", expected "120" or "130"'
    eventually(lambda: near.json(STATE).get("detail") == why, within=60, hoped="its register gives it away")
    assert len(values(near)) == before, "no value of it was taken"
    assert other.get(1, 0) == 5 and alarms(gateway) >= 1
