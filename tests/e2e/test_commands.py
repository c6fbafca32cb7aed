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


def site(make_gateway, begin, witness, port):
    peer = begin(TcpPeer([device(1, [60, 0, 0, 0, 0, 7], None, [False])]).start())
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
