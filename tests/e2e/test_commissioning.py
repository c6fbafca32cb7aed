"""Raw access to a line: off by default, for users who are allowed by name, exact about what the device said."""

import json
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cloud import client
from pymodbus.framer import FramerType

from modbus_peer import TcpPeer, device
from waiting import eventually

YAML = """
gateway: plant
lines:
  hall: {line}
  quiet: {quiet}
devices:
  - {{name: dev, line: hall, unit_id: 5, every: 1h, points: {{p: {{holding: 0}}}}}}
broker:
  listen: [{{tcp: 127.0.0.1:{port}}}]
  users: users.yaml
  access:
    - {{user: ann, read: ["plant/#"], write: ["plant/#", "plant/+/$modbus"]}}
    - {{user: hmi, read: ["plant/#"], write: ["plant/#"]}}
{more}
"""
ANN, HMI = ("ann", "of-the-cabinet"), ("hmi", "of-the-panel")
TOPIC = "plant/hall/$modbus"


def site(make_gateway, begin, port, more="", kind=TcpPeer):
    peer = begin(kind([device(5, [10, 11, 12, 13], [40], [True, False])], FramerType.RTU).start())
    peer.identities[5] = {0: "ACME", 1: "X-1", 2: "2.0", 5: "model five"}
    other = begin(TcpPeer([device(1)]).start())
    line, quiet = peer.line(extra=", raw_access: true"), other.line()
    gateway = make_gateway(YAML.format(line=line, quiet=quiet, port=port, more=more))
    for name, password in (ANN, HMI):
        done = gateway.command("passwd", "--file", gateway.folder / "users.yaml", name, stdin=f"{password}\n")
        assert done.returncode == 0, done.stderr
    gateway.start()
    eventually(lambda: gateway.device("dev")["state"] == "online", hoped="the device is polled")
    return gateway, peer


def ask(near, answers="read", topic=TOPIC, retain=False, **request):
    """Publishes a request and waits for one more answer."""
    before = len(near.by_topic[f"{topic}/result"])
    near.client.publish(topic, json.dumps(request), qos=1, retain=retain)
    eventually(lambda: len(near.by_topic[f"{topic}/result"]) > before, hoped=f"{request} is answered")
    answer = json.loads(near.by_topic[f"{topic}/result"][before])
    assert answer["result"] == answers, answer
    return answer


def test_every_function_reaches_the_device_and_is_answered(make_gateway, begin, witness, port):
    gateway, peer = site(make_gateway, begin, port)
    near = witness(port, "plant/#", user=ANN)
    assert ask(near, unit=5, function=3, address=1, count=2)["values"] == [11, 12]
    assert ask(near, unit=5, function=4, address=0, count=1)["values"] == [40]
    assert ask(near, unit=5, function=1, address=0, count=2)["values"] == [True, False]
    assert ask(near, unit=5, function=2, address=0, count=1)["values"] == [False]
    ask(near, "written", unit=5, function=5, address=1, values=[True])
    ask(near, "written", unit=5, function=6, address=0, values=[7])
    ask(near, "written", unit=5, function=15, address=2, values=[1, 1])
    ask(near, "written", unit=5, function=16, address=2, data="0008 0009")
    ask(near, "written", unit=5, function=22, address=0, **{"and": 0xFFF0, "or": 1})
    both = ask(near, "written", unit=5, function=23, address=0, count=4, write_address=1, values=[2])
    assert both["values"] == [1, 2, 8, 9], both
    said = ask(near, unit=5, function=43, id="who")
    assert [o["value"] for o in said["objects"]] == ["ACME", "X-1", "2.0"] and said["id"] == "who"
    assert ask(near, unit=5, function=43, object=5)["objects"] == [{"id": 5, "name": "model", "value": "model five"}]
    wanted = ["05 17 00 00 00 04 00 01 00 01 02 00 02", "05 2b 0e 01 00", "05 2b 0e 04 05"]
    assert [frame.hex(" ") for frame in peer.frames[-3:]] == wanted
    failed = ask(near, "failed", unit=5, function=3, address=60000, count=1)
    assert failed["exception"] == 2 and "illegal data address" in failed["reason"]
    assert gateway.saw("raw access", "user ann", "function 16 to unit 5: holding 2 = 8 9", "written")


def test_what_may_not_be_asked_is_refused_in_words_and_never_sent(make_gateway, begin, witness, port):
    gateway, peer = site(make_gateway, begin, port)
    near = witness(port, "plant/#", user=ANN)
    asked = len(peer.frames)
    for request, words in (
        (dict(unit=5, function=3, address=0, count=126), "`count` is 126, it is a whole number from 1 to 125"),
        (dict(unit=248, function=3, address=0, count=1), "`unit` is 248"),
        (dict(unit=5, function=8), "`function` is 8"),
        (dict(unit=5, function=6, address=0, value=1), "unknown key `value`"),
        (dict(unit=5, function=6, address=0, values=[1], expires="2001-01-01T00:00:00Z"), "expired"),
    ):
        assert words in ask(near, "refused", **request)["reason"], request
    assert "retain" in ask(near, "refused", retain=True, unit=5, function=6, address=0, values=[1])["reason"]
    assert "no line `hill`" in ask(near, "refused", topic="plant/hill/$modbus", unit=5, function=43)["reason"]
    off = ask(near, "refused", topic="plant/quiet/$modbus", unit=1, function=3, address=0, count=1)
    assert "raw access to line `quiet` is off" in off["reason"]
    assert len(peer.frames) == asked, "nothing of it was sent"
    assert gateway.saw("raw access refused", "user ann", "`count` is 126")
    late = witness(port, TOPIC, "plant/dev/p", user=ANN)
    eventually(lambda: "plant/dev/p" in late.retained, hoped="what is retained arrives")
    assert TOPIC not in late.retained, "a refused request does not wait for newcomers"


def test_the_same_id_is_done_once(make_gateway, begin, witness, port):
    _gateway, peer = site(make_gateway, begin, port)
    near = witness(port, "plant/#", user=ANN)
    first = ask(near, "written", unit=5, function=6, address=0, values=[7], id="once")
    asked = len(peer.frames)
    assert ask(near, "written", unit=5, function=6, address=0, values=[7], id="once") == first
    assert len(peer.frames) == asked


def publish_v5(port, user, topic, payload):
    """What the broker says to a publish, in a word."""
    reasons, done = [], threading.Event()
    caller = client(f"caller-{user and user[0]}", mqtt.MQTTv5)
    if user:
        caller.username_pw_set(*user)
    caller.on_connect = lambda c, *_: c.publish(topic, payload, qos=1)

    def told(_client, _data, _mid, reason, _properties):
        reasons.append(str(reason))
        done.set()

    caller.on_publish = told
    caller.connect("127.0.0.1", port)
    caller.loop_start()
    try:
        assert done.wait(10)
    finally:
        caller.disconnect()
        caller.loop_stop()
    return reasons[0]


def test_a_wildcard_gives_nobody_raw_access(make_gateway, begin, witness, port):
    _gateway, peer = site(make_gateway, begin, port)
    near = witness(port, "plant/#", user=ANN)
    asked = len(peer.frames)
    payload = json.dumps({"unit": 5, "function": 6, "address": 0, "values": [7]})
    assert publish_v5(port, HMI, TOPIC, payload) == "Not authorized"
    assert publish_v5(port, None, TOPIC, payload) == "Not authorized", "not even on this machine"
    assert publish_v5(port, HMI, "plant/dev/p/get", "") == "Success", "what else it may do it may"
    eventually(lambda: near.by_topic["plant/dev/p/get/result"], hoped="a read of a point is answered")
    assert {frame[1] for frame in peer.frames[asked:]} == {3}, "the point's, and no write"
    assert ask(near, "written", unit=5, function=6, address=0, values=[7])


def test_a_call_over_mqtt_5_is_answered_with_its_correlation(make_gateway, begin, port):
    site(make_gateway, begin, port)
    answered, answers = threading.Event(), []
    caller = client("caller", mqtt.MQTTv5)
    caller.username_pw_set(*ANN)
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = "plant/answers/ann"
    properties.CorrelationData = b"\x07"

    def heard(_client, _data, message):
        answers.append((message.properties.CorrelationData, json.loads(message.payload)))
        answered.set()

    request = json.dumps({"unit": 5, "function": 3, "address": 0, "count": 1})
    caller.on_subscribe = lambda c, *_: c.publish(TOPIC, request, qos=1, properties=properties)
    caller.on_connect = lambda c, *_: c.subscribe("plant/answers/ann", 1)
    caller.on_message = heard
    caller.connect("127.0.0.1", port)
    caller.loop_start()
    try:
        assert answered.wait(10)
    finally:
        caller.disconnect()
        caller.loop_stop()
    assert answers[0][0] == b"\x07" and answers[0][1]["values"] == [10]


def test_the_cloud_reaches_a_line_only_by_a_rule_that_names_it(make_gateway, begin, witness, port, cloud):
    more = f"""
upstreams:
  wide: {{url: "mqtt://127.0.0.1:{cloud.port}", client_id: wide, receive: [{{filter: "wide/#", strip: wide/}}]}}
  exact:
    url: mqtt://127.0.0.1:{cloud.port}
    client_id: exact
    receive: [{{filter: "exact/plant/+/$modbus", strip: exact/}}]
"""
    gateway, peer = site(make_gateway, begin, port, more)
    for name in ("wide", "exact"):
        eventually(lambda name=name: gateway.upstream(name)["state"] == "connected", hoped=f"{name} is connected")
    near, far = witness(port, "plant/#", user=ANN), witness(cloud.port, "#")

    def order(value, id):
        return json.dumps({"unit": 5, "function": 6, "address": 0, "values": [value], "id": id})

    far.client.publish("wide/plant/hall/$modbus", order(77, "wide"), qos=1).wait_for_publish(10)
    far.client.publish("wide/plant/dev/p/get", "", qos=1)
    eventually(lambda: near.by_topic["plant/dev/p/get/result"], hoped="what else it sends arrives")
    far.client.publish("exact/plant/hall/$modbus", order(78, "exact"), qos=1)
    eventually(lambda: near.by_topic[f"{TOPIC}/result"], hoped="the rule that names it lets it through")
    answers = [json.loads(payload)["id"] for payload in near.by_topic[f"{TOPIC}/result"]]
    assert answers == ["exact"] and not any(frame.endswith(bytes([77])) for frame in peer.frames)
    assert gateway.saw("raw access", "upstream exact")


def test_whoever_stands_in_front_of_the_cabinet_asks_by_the_command_line(make_gateway, begin, port):
    gateway, peer = site(make_gateway, begin, port)

    def modbus(*arguments):
        return gateway.command("modbus", *arguments, "--socket", gateway.socket)

    read = modbus("hall", 5, "read", "holding", 0, 2)
    assert read.stdout.split() == ["0", "10", "10", "0x000A", "1", "11", "11", "0x000B"], read
    assert "written" in modbus("hall", 5, "write", "holding", "0x2", 500, -1).stdout
    assert peer.frames[-1].hex(" ") == "05 10 00 02 00 02 04 01 f4 ff ff"
    assert modbus("hall", 5, "write", "coil", 1, "on").returncode == 0
    who = modbus("hall", 5, "identify", "--all")
    assert [line.split()[-1] for line in who.stdout.splitlines()] == ["ACME", "X-1", "2.0", "five"], who
    as_json = json.loads(modbus("hall", 5, "read", "input", 0, "--json").stdout)
    assert as_json["values"] == [40] and as_json["result"] == "read"
    refused = modbus("hall", 5, "read", "holding", 60000)
    assert refused.returncode == 1 and "exception 2: illegal data address" in refused.stdout
    for arguments, words in (
        (("hill", 5, "identify"), "no line `hill`; there are: hall, quiet"),
        (("hall", 5, "read", "holding", 0, 126), "from 1 to 125"),
        (("hall", 0, "identify"), "which is everybody"),
    ):
        done = modbus(*arguments)
        assert done.returncode == 1 and words in done.stderr, done
    assert modbus("quiet", 1, "read", "holding", 0).returncode == 0, "whoever may ask here may change the configuration"
    assert gateway.saw("raw access", "uid", "control socket", "function 16 to unit 5")
    trail = [json.loads(line) for line in gateway.command("audit", "--json", "--socket", gateway.socket).stdout.splitlines()]
    refused = [e for e in trail if e["outcome"]["result"] == "refused"]
    assert refused and all(e["cause"] == "raw" and "uid" in e["from"]["local"] for e in refused), trail
    assert any(e["line"] == "hill" for e in refused), "a line that is not there"


def test_a_raw_write_and_a_refused_one_stand_in_the_audit_trail_with_who_asked(make_gateway, begin, witness, port):
    gateway, peer = site(make_gateway, begin, port)
    near = witness(port, "plant/#", user=ANN)
    write = {"unit": 5, "function": 16, "address": 1, "values": [77, 78], "id": "w"}
    assert ask(near, "written", **write)["id"] == "w"
    ask(near, unit=5, function=3, address=1, count=1)
    ask(near, "refused", unit=5, function=6, address=70_000, values=[1])
    ask(near, "refused", **{**write, "values": [1, 2]})
    gateway.stop()
    gateway.start()
    peer.put(5, 1, [1])
    heard = near.total
    eventually(lambda: near.total > heard, hoped="ann is back")
    ask(near, "written", **write)
    assert peer.get(5, 1) == 1, "not done again after the restart"
    shown = gateway.command("audit", "--json", "--who", "ann", "--socket", gateway.socket).stdout
    entries = [json.loads(line) for line in shown.splitlines()]
    assert [(e["cause"], e["outcome"]["result"]) for e in entries] == [("raw", r) for r in (
        "written", "refused", "refused", "refused")], entries
    first = entries[0]
    assert (first["line"], first["unit_id"], first["from"]["user"]) == ("hall", 5, "ann")
    assert first["asked"][0]["raw"] == "function 16 to unit 5: holding 1 = 77 78", first
