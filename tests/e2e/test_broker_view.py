"""What can be seen of the broker: clients, topics, and the `$SYS` tree beside a real Mosquitto's."""

import json
import threading

import paho.mqtt.client as mqtt
import pytest

from cloud import client
from waiting import eventually

YAML = """
gateway: plant
broker:
  listen: [{{tcp: 127.0.0.1:{port}}}]
"""


@pytest.fixture
def gateway(make_gateway, port):
    return make_gateway(YAML.format(port=port)).start()


@pytest.fixture
def guest(begin, port):
    """A connected paho client."""
    def make(client_id, version=mqtt.MQTTv5, **options):
        one = client(client_id, version, **options)
        ready, one.gone = threading.Event(), threading.Event()
        one.reasons = []
        one.on_connect = lambda *_: ready.set()
        one.on_disconnect = lambda _c, _d, _f, reason, *_: (one.reasons.append(reason.value), one.gone.set())
        one.connect("127.0.0.1", port, 60)
        one.loop_start()
        one.stop = lambda: (one.disconnect(), one.loop_stop())
        assert ready.wait(10)
        return begin(one)

    return make


def asked(gateway, *words):
    done = gateway.command(*words, "--json", "--socket", gateway.socket)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_clients_are_seen_with_what_they_do(gateway, guest):
    hmi = guest("hmi")
    hmi.subscribe([("plant/#", 1), ("$share/panels/else/+", 2)])
    speaker = guest("speaker", mqtt.MQTTv311, clean_session=False)
    speaker.publish("plant/x", b"1" * 1000, qos=1)

    def active():
        connected = {c["id"]: c for c in asked(gateway, "clients")["connected"]}
        rates = connected["hmi"]["rates"], connected["speaker"]["rates"]
        return connected if rates[0]["bytes_out"] > 0 and rates[1]["messages_in"] > 0 else None

    connected = eventually(active, hoped="rates are seen")
    assert (connected["hmi"]["version"], connected["speaker"]["version"]) == ("5", "3.1.1")
    assert connected["hmi"]["address"].startswith("127.0.0.1:") and connected["hmi"]["keep_alive_s"] == 60
    assert (connected["hmi"]["clean_start"], connected["hmi"]["session_expiry_s"]) == (True, 0)
    assert (connected["speaker"]["clean_start"], connected["speaker"]["session_expiry_s"]) == (False, 2**32 - 1)
    closely = asked(gateway, "clients", "hmi")
    assert [(s["filter"], s["qos"]) for s in closely["subscriptions"]] == [("$share/panels/else/+", 2), ("plant/#", 1)]

    speaker.disconnect()
    eventually(lambda: [c["id"] for c in asked(gateway, "clients")["away"]] == ["speaker"], hoped="it is away")
    text = gateway.command("clients", "--socket", gateway.socket).stdout
    assert "hmi" in text and "AWAY" in text and "for ever" in text
    wrong = gateway.command("clients", "hmo", "--socket", gateway.socket)
    assert wrong.returncode == 1 and "did you mean `hmi`?" in wrong.stderr


def test_a_client_is_kicked_and_told(gateway, guest):
    hmi = guest("hmi")
    hmi.reconnect_delay_set(60, 60)
    done = gateway.command("clients", "kick", "hmi", "--socket", gateway.socket)
    assert done.returncode == 0 and "hmi was told" in done.stdout
    assert hmi.gone.wait(10) and hmi.reasons == [0x98]
    again = gateway.command("clients", "kick", "nobody", "--socket", gateway.socket)
    assert again.returncode == 1 and "no client `nobody`" in again.stderr


def test_topics_are_shown_with_their_last_value(gateway, guest):
    speaker = guest("speaker")
    for n in range(1200):
        last = speaker.publish(f"many/{n // 100}/{n}", f"value {n}", qos=1, retain=True)
    last.wait_for_publish(20)
    speaker.publish("bytes", b"\xff\x00", qos=1, retain=True).wait_for_publish(20)
    topics = asked(gateway, "topics", "many/#", "--limit", "5000")
    assert len(topics["topics"]) == 1200 and not topics["more"]
    assert {t["topic"]: t["payload"] for t in topics["topics"]}["many/7/742"] == "value 742"
    some = asked(gateway, "topics", "many/+/1", "--limit", "10")
    assert [t["topic"] for t in some["topics"]] == ["many/0/1"]
    assert asked(gateway, "topics", "bytes")["topics"][0]["payload_hex"] == "ff00"
    text = gateway.command("topics", "many/11/#", "--tree", "--limit", "3", "--socket", gateway.socket).stdout
    assert "many\n  11\n    1100  value 1100" in text and "and more" in text
    wrong = gateway.command("topics", "a/#/b", "--socket", gateway.socket)
    assert wrong.returncode == 1 and "a/#/b" in wrong.stderr
    states = asked(gateway, "topics", "plant/$state")["topics"]
    assert [t["payload"] for t in states] == ["online"]


def sys_topics(port):
    """Topics below $SYS/broker, as a client gets them."""
    seen = {}
    one = client("", mqtt.MQTTv311)
    one.on_connect = lambda c, *_: c.subscribe("$SYS/#")
    one.on_message = lambda _c, _d, message: seen.__setitem__(message.topic, message.payload.decode())
    one.connect("127.0.0.1", port, 30)
    one.loop_start()
    eventually(lambda: "$SYS/broker/load/connections/15min" in seen, within=30, hoped="the loads are told")
    eventually(lambda: "$SYS/broker/clients/maximum" in seen, within=30, hoped="the most clients are told")
    one.disconnect()
    one.loop_stop()
    return seen


def test_sys_has_every_name_that_mosquittos_has(gateway, guest, cloud, port):
    speaker = guest("speaker")
    speaker.publish("a", b"12345", qos=1, retain=True).wait_for_publish(10)
    theirs, ours = sys_topics(cloud.port), sys_topics(port)
    missing = {name for name in set(theirs) - set(ours) if not name.startswith("$SYS/broker/heap/")}
    assert missing == set()
    # Once more, when the next round of numbers is out.
    def counted():
        now = sys_topics(port)
        enough = int(now["$SYS/broker/publish/bytes/received"]) >= 5 and int(now["$SYS/broker/clients/maximum"]) >= 2
        return now if enough and float(now["$SYS/broker/load/sockets/1min"]) > 0 else None

    eventually(counted, within=40, hoped="what was done is counted")
