"""What is asked for on …/set: done once, checked before the first byte, answered with what really happened."""

import json
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cloud import client
from modbus_peer import TcpPeer, device
from waiting import eventually

YAML = """
gateway: plant
lines:
  plc: {line}
devices:
  - name: chiller
    line: plc
    unit_id: 1
    every: 1s
    points:
      setpoint: {{holding: 0, type: i16, scale: 0.1, write: {{min: 4, max: 18, step: 0.5}}}}
      mode: {{holding: 1, values: {{0: stopped, 1: cooling}}, write: true}}
      pump: {{coil: 0, write: true}}
      energy: {{holding: 4, type: u32}}
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
"""


def site(make_gateway, begin, witness, port, action=None):
    peer = begin(TcpPeer([device(1, [60, 0, 0, 0, 0, 7], None, [False], action=action)]).start())
    make_gateway(YAML.format(line=peer.line(), port=port)).start()
    near = witness(port, "plant/#")
    eventually(lambda: near.json("plant/chiller/setpoint")["value"] == 6, hoped="the set-point is read")
    return near


def ask(near, point, payload, answers, **options):
    """Publishes a command and waits for one more answer to that point."""
    topic = f"plant/chiller/{point}/set"
    before = len(near.by_topic[f"{topic}/result"])
    near.client.publish(topic, payload, qos=1, **options)
    eventually(lambda: len(near.by_topic[f"{topic}/result"]) > before, hoped=f"{topic} {payload} is answered")
    answer = json.loads(near.by_topic[f"{topic}/result"][before])
    assert answer["result"] == answers, answer
    return answer


def test_a_value_is_written_read_back_and_seen(make_gateway, begin, witness, port):
    near = site(make_gateway, begin, witness, port)
    assert ask(near, "setpoint", "7.5", "written")["value"] == 7.5
    assert ask(near, "mode", "cooling", "written")["value"] == "cooling"
    answer = ask(near, "pump", json.dumps({"value": True, "id": "a7"}), "written")
    assert answer["value"] is True and answer["id"] == "a7"
    for point, value in (("setpoint", 7.5), ("mode", "cooling"), ("pump", True)):
        eventually(lambda: near.json(f"plant/chiller/{point}")["value"] == value, hoped=f"{point} is published as {value}")


def test_what_may_not_be_written_is_refused_in_words(make_gateway, begin, witness, port):
    near = site(make_gateway, begin, witness, port)
    for point, payload, words in (
        ("setpoint", "30", "30 is outside 4 to 18"),
        ("setpoint", "6.3", "steps of 0.5"),
        ("setpoint", "warm", "number"),
        ("mode", "melting", "stopped"),
        ("energy", "1", "not writable"),
        ("nothing", "1", "no point"),
        ("setpoint", '{"value": 7, "expires": "2001-01-01T00:00:00Z"}', "expired"),
        ("setpoint", '{"valve": 7}', "unknown key"),
    ):
        assert words in ask(near, point, payload, "refused")["reason"], (point, payload)
    assert "retain" in ask(near, "setpoint", "8", "refused", retain=True)["reason"]
    eventually(lambda: near.json("plant/chiller/setpoint")["value"] == 6, hoped="the set-point is as it was")
    late = witness(port, "plant/chiller/setpoint/set", "plant/chiller/setpoint")
    eventually(lambda: "plant/chiller/setpoint" in late.retained, hoped="what is retained arrives")
    assert "plant/chiller/setpoint/set" not in late.retained, "a refused command does not wait for newcomers"


def test_a_call_over_mqtt_5_is_answered_on_its_response_topic_with_its_correlation(make_gateway, begin, witness, port):
    site(make_gateway, begin, witness, port)
    answered, answers = threading.Event(), []

    def heard(_client, _data, message):
        answers.append((message.properties.CorrelationData, json.loads(message.payload)))
        answered.set()

    caller = client("caller", mqtt.MQTTv5)
    granted = threading.Event()
    caller.on_subscribe = lambda *_: granted.set()
    caller.on_connect = lambda c, *_: c.subscribe("answers/caller", 1)
    caller.on_message = heard
    caller.connect("127.0.0.1", port)
    caller.loop_start()
    try:
        assert granted.wait(10)
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = "answers/caller"
        properties.CorrelationData = b"\x00\x2a"
        caller.publish("plant/chiller/setpoint/set", "9", qos=1, properties=properties)
        assert answered.wait(10)
    finally:
        caller.disconnect()
        caller.loop_stop()
    correlation, answer = answers[0]
    assert correlation == b"\x00\x2a" and answer["result"] == "written" and answer["value"] == 9


def ask_device(near, what, payload, answers):
    """Tells a whole device something and waits for the answer."""
    topic = f"plant/chiller/{what}"
    before = len(near.by_topic[f"{topic}/result"])
    near.client.publish(topic, payload, qos=1)
    eventually(lambda: len(near.by_topic[f"{topic}/result"]) > before, hoped=f"{topic} {payload} is answered")
    answer = json.loads(near.by_topic[f"{topic}/result"][before])
    assert answer["result"] == answers, answer
    return answer


class Writes:
    """Remembers what a device was asked to write: function, address, number."""

    def __init__(self):
        self.seen = []

    async def action(self, function, start, address, count, registers, new):
        if new is not None:
            self.seen.append((function, address, count))


def batch(*writes, **more):
    return json.dumps({"writes": [{"point": point, "value": value} for point, value in writes], **more})


def test_a_batch_is_written_in_one_request_where_it_can_or_not_at_all(make_gateway, begin, witness, port):
    writes = Writes()
    near = site(make_gateway, begin, witness, port, writes.action)
    answer = ask_device(near, "set", batch(("setpoint", 9.5), ("mode", "cooling"), ("pump", True), id="b1"), "written")
    assert answer["id"] == "b1" and [w["value"] for w in answer["writes"]] == [9.5, "cooling", True]
    assert writes.seen == [(16, 0, 2), (5, 0, 1)], "neighbours together, in the order asked"
    answer = ask_device(near, "set", batch(("mode", "stopped"), ("setpoint", 99)), "refused")
    assert "99 is outside 4 to 18" in answer["writes"][1]["reason"], answer
    assert "another of the batch" in answer["writes"][0]["reason"], answer
    assert "no point `nothing`" in ask_device(near, "set", batch(("mode", "stopped"), ("nothing", 1)), "refused")["reason"]
    assert len(writes.seen) == 2, "nothing of a refused batch is written"


def test_the_same_id_is_done_once_and_answered_again(make_gateway, begin, witness, port):
    writes = Writes()
    near = site(make_gateway, begin, witness, port, writes.action)
    first = ask(near, "setpoint", json.dumps({"value": 8, "id": "once"}), "written")
    again = ask(near, "setpoint", json.dumps({"value": 8, "id": "once"}), "written")
    assert again == first and len(writes.seen) == 1
    ask(near, "setpoint", json.dumps({"value": 8, "id": "twice"}), "written")
    assert len(writes.seen) == 2


def test_a_point_is_read_on_demand_and_told(make_gateway, begin, witness, port):
    peer = begin(TcpPeer([device(1, [60, 0, 0, 0, 0, 7], None, [False])]).start())
    slow = YAML.replace("every: 1s", "every: 1h")
    make_gateway(slow.format(line=peer.line(), port=port)).start()
    near = witness(port, "plant/#")
    eventually(lambda: near.json("plant/chiller/energy")["value"] == 7, hoped="all is read once")
    peer.put(1, 5, [8])
    assert ask_device(near, "energy/get", "", "read")["value"] == 8
    eventually(lambda: near.json("plant/chiller/energy")["value"] == 8, hoped="what was asked for is told to all")
    told = len(near.by_topic["plant/chiller/energy"])
    ask_device(near, "energy/get", '{"id": 3}', "read")
    eventually(lambda: len(near.by_topic["plant/chiller/energy"]) > told, hoped="told although nothing has changed")
    peer.put(1, 0, [75])
    ask_device(near, "$command", "read", "done")
    eventually(lambda: near.json("plant/chiller/setpoint")["value"] == 7.5, hoped="the whole device is read")


def test_a_device_is_left_alone_while_it_is_paused(make_gateway, begin, witness, port):
    near = site(make_gateway, begin, witness, port)
    ask_device(near, "$command", "pause", "done")
    eventually(lambda: near.json("plant/chiller/setpoint")["reason"] == "paused", hoped="its points say why they are bad")
    eventually(lambda: "paused" in near.by_topic["plant/chiller/$state"][-1].decode(), hoped="and so does its state")
    ask_device(near, "$command", json.dumps({"command": "resume", "id": "r"}), "done")
    eventually(lambda: near.json("plant/chiller/setpoint")["value"] == 6, hoped="it is read again")
    assert "pause, resume, read" in ask_device(near, "$command", "reboot", "refused")["reason"]
