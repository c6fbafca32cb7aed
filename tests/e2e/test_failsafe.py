"""A value that is written when the upstream, or a local client, has been gone for a time; seen in the device's registers."""

import json
import time
import urllib.request

import paho.mqtt.client as mqtt
import pytest

from cloud import client
from modbus_peer import SerialPeer, device
from waiting import eventually, free_port

YAML = """
gateway: plant
lines:
  plc: {line}
devices:
  - name: chiller
    line: plc
    unit_id: 1
    every: 200ms
    points:
      setpoint: {{holding: 0, type: i16, scale: 0.1, write: {{min: 4, max: 18, step: 0.5}}, fail_safe: {rule}}}
      mode: {{holding: 1, write: true}}
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
web: {{listen: 127.0.0.1:{web}}}
"""
CLOUD = """
upstreams:
  cloud:
    url: mqtt://127.0.0.1:{cloud}
    send: [{{filter: "plant/#"}}]
    receive: [{{filter: "plant/+/+/set"}}]
"""
STATE = "plant/chiller/setpoint/$fail_safe"
UPSTREAM = "{value: 5, when: {upstream: cloud}, after: 2s}"
CLIENT = "{value: 5, when: {client: hmi}, after: 2s}"


class Writes:
    """Remembers what the set-point was asked to be, and when."""

    def __init__(self):
        self.seen = []

    async def action(self, function, start, address, count, registers, new):
        if new is not None and address == 0:
            self.seen.append((time.monotonic(), new[0]))

    def values(self):
        return [value for _, value in self.seen]


class Site:
    """A chiller, a gateway that watches over its set-point, and who listens here."""

    def __init__(self, make_gateway, begin, witness, port, rule, cloud=None, peer=SerialPeer):
        self.writes = Writes()
        self.peer = begin(peer([device(1, [60, 0], action=self.writes.action)]).start())
        self.web = free_port()
        text = YAML.format(line=self.peer.line(), port=port, rule=rule, web=self.web)
        self.gateway = make_gateway(text + (CLOUD.format(cloud=cloud) if cloud else "")).start()
        self.port, self.witness = port, witness
        self.near = witness(port, "plant/#")

    def holds(self, value, hoped, within=20):
        """Until the register holds that many tenths of a degree."""
        return eventually(lambda: self.peer.get(1, 0) == value, within=within, hoped=hoped)

    def is_in(self, state, within=20):
        return eventually(lambda: self.near.json(STATE)["state"] == state and self.near.json(STATE), within=within,
                          hoped=f"the fail-safe is {state}")

    def status(self):
        return self.gateway.status()["fail_safes"][0]

    def command(self, value):
        self.near.client.publish("plant/chiller/setpoint/set", json.dumps(value), qos=1)


@pytest.fixture
def site(make_gateway, begin, witness, port):
    return lambda rule, **more: Site(make_gateway, begin, witness, port, rule, **more)


def settled(one):
    """The upstream is there for long enough to count, so that its going begins an absence."""
    eventually(lambda: one.status()["state"] == "armed" and one.status()["gone_s"] is None,
               hoped="the commander counts as there")


def test_the_value_is_written_when_the_upstream_has_been_gone_for_so_long_and_left_on_its_return(site, cable):
    one = site(UPSTREAM, cloud=cable.port)
    settled(one)
    assert one.peer.get(1, 0) == 60 and not one.writes.seen
    cut = time.monotonic()
    cable.cut()
    one.holds(50, "the fail-safe value is in the register")
    # The link's end is seen at once, who is there is looked at twice a second; and a test machine may be slow.
    assert 2.0 <= one.writes.seen[0][0] - cut <= 6.0, one.writes.seen
    told = one.is_in("active")
    assert told["value"] == 5 and told["when"] == {"upstream": "cloud"} and told["gone_since"]
    eventually(lambda: one.near.json("plant/chiller/setpoint")["value"] == 5, hoped="the value is published")
    table = one.gateway.command("status", "--socket", one.gateway.socket).stdout
    assert "FAIL-SAFE" in table and "upstream cloud" in table and "active, gone for" in table, table
    with urllib.request.urlopen(f"http://127.0.0.1:{one.web}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    assert 'trunkline_fail_safe_active{point="chiller/setpoint"} 1' in text
    cable.mend()
    one.is_in("armed", within=60)
    assert one.peer.get(1, 0) == 50 and one.writes.values() == [50], "nothing is written on the return"


def test_what_is_to_follow_is_written_when_the_upstream_has_come_back(site, cable):
    one = site("{value: 5, when: {upstream: cloud}, after: 2s, on_return: restore}", cloud=cable.port)
    settled(one)
    one.peer.put(1, 0, [95])
    one.writes.seen.clear()
    cable.cut()
    one.is_in("active")
    assert one.peer.get(1, 0) == 50
    cable.mend()
    one.holds(95, "what was there before is there again", within=60)
    one.is_in("armed")
    assert one.writes.values() == [50, 95]


def test_who_never_came_is_gone_since_the_start_and_after_a_restart_again(site, cable):
    cable.cut()
    one = site("{value: 5, when: {upstream: cloud}, after: 2s, on_return: {value: 8}}", cloud=cable.port)
    one.holds(50, "the value is written though nobody ever came")
    one.is_in("active")
    eventually(lambda: (one.gateway.state / "failsafe.json").exists(), hoped="it is remembered")
    one.gateway.kill()
    one.peer.put(1, 0, [77])
    one.gateway.start()
    one.holds(50, "and written again after the restart")
    one.gateway.kill()
    one.gateway.start()
    cable.mend()
    one.holds(80, "the return after a restart puts right what the run before wrote", within=60)


def test_a_device_that_is_away_gets_the_value_as_soon_as_it_is_back(site, cable):
    one = site(UPSTREAM, cloud=cable.port)
    settled(one)
    one.peer.cable.dead.add(1)
    eventually(lambda: one.gateway.device("chiller")["state"] == "offline", within=60, hoped="the device is offline")
    cable.cut()
    eventually(lambda: one.status()["state"] == "writing" and "timeout" in (one.status()["reason"] or ""),
               hoped="the status says why it is not written")
    assert one.gateway.saw("not written yet", "timeout")
    one.peer.cable.dead.clear()
    one.holds(50, "the value is written to the device that is back", within=60)
    one.is_in("active")


def test_the_value_is_withdrawn_when_the_upstream_is_back_before_the_device(site, cable):
    one = site(UPSTREAM, cloud=cable.port)
    settled(one)
    one.peer.cable.dead.add(1)
    eventually(lambda: one.gateway.device("chiller")["state"] == "offline", within=60, hoped="the device is offline")
    cable.cut()
    one.is_in("writing")
    cable.mend()
    one.is_in("armed", within=60)
    one.peer.cable.dead.clear()
    eventually(lambda: one.gateway.device("chiller")["state"] == "online", within=60, hoped="the device is back")
    one.command(7)
    one.holds(70, "a later command is done")
    assert one.writes.values() == [70], "and the fail-safe value was not"


def test_a_command_while_it_is_in_force_is_done_and_stands(site, cable):
    one = site(UPSTREAM, cloud=cable.port)
    settled(one)
    cable.cut()
    one.is_in("active")
    one.command(7)
    one.holds(70, "the person at the machine is obeyed")
    one.is_in("overridden")
    one.near.client.publish("plant/chiller/setpoint/set", "99", qos=1)
    eventually(lambda: len(one.near.by_topic["plant/chiller/setpoint/set/result"]) == 2, hoped="the second is refused")
    one.gateway.kill()
    one.gateway.start()
    eventually(lambda: one.status()["gone_s"] and one.status()["gone_s"] > 4, hoped="the time is over in the new run")
    assert one.status()["state"] == "overridden" and one.peer.get(1, 0) == 70, "also after a restart"
    cable.mend()
    one.is_in("armed", within=60)


def test_a_local_client_counts_as_there_while_it_is_connected_and_only_then(site):
    one = site(CLIENT)
    hmi = connected(one.port)
    try:
        settled(one)
        # Another connection takes its place: nobody was away.
        first = address_of_hmi(one)
        second = connected(one.port)
        hmi.loop_stop()
        hmi = second
        eventually(lambda: address_of_hmi(one) not in (None, first), hoped="the place is taken")
        assert one.status()["state"] == "armed" and one.status()["gone_s"] is None and not one.writes.seen
        # Its session stays, which is not it.
        hmi.disconnect()
        one.holds(50, "the value is written when the client has gone")
        assert one.gateway.status()["broker"]["sessions_away"] == 1
        one.is_in("active")
    finally:
        hmi.loop_stop()
    hmi = connected(one.port)
    try:
        one.is_in("armed")
        assert one.writes.values() == [50]
    finally:
        hmi.disconnect()
        hmi.loop_stop()


def address_of_hmi(one):
    return next((c["address"] for c in one.gateway.status()["broker"]["clients"] if c["id"] == "hmi"), None)


def connected(port):
    one = client("hmi", mqtt.MQTTv311, clean_session=False)
    one.reconnect_delay_set(600, 600)
    one.connect("127.0.0.1", port)
    one.subscribe("plant/#", 1)
    one.loop_start()
    eventually(one.is_connected, hoped="the client is connected")
    return one


def test_a_wrong_fail_safe_is_refused_with_the_line_and_the_limit(make_gateway, port):
    text = YAML.format(line="{tcp: h:502}", port=port, web=free_port(), rule="{value: 30, when: {upstream: clud}, after: 2}")
    done = make_gateway(text).command("check", "-c", "gateway.yaml")
    assert done.returncode == 78, done
    for words in ("gateway.yaml:11:", "`setpoint`: 30 is outside 4 to 18", "`2` has no unit"):
        assert words in done.stderr + done.stdout, done.stderr
