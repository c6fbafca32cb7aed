"""A Mosquitto that bridges into the embedded broker, over a cable that is cut on the way."""

import subprocess

import paho.mqtt.client as mqtt
import pytest

from cloud import MOSQUITTO, Cable, Witness, client
from waiting import eventually, free_port

COUNT = 300
YAML = """
gateway: plant
broker:
  listen: [{{tcp: 127.0.0.1:{port}}}]
  anonymous: never
  users: users.yaml
  access: [{{user: site, read: ["#"], write: ["#"]}}]
"""
USER = ("site", "s3cret")


class Bridge:
    """A Mosquitto of its own, whose bridge has us for its remote."""

    def __init__(self, folder, remote, version):
        self.port = free_port()
        self.config = folder / "bridge.conf"
        # What finds no room in its window is overtaken there. With MQTT 5 it does not keep to ours if its own is larger.
        window = "max_inflight_messages 65535\n" if version == "mqttv311" else ""
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n"
            f"{window}"
            f"connection site\naddress 127.0.0.1:{remote}\nbridge_protocol_version {version}\ncleansession false\n"
            f"remote_username {USER[0]}\nremote_password {USER[1]}\nremote_clientid site-bridge\n"
            # It keeps itself to its remote: a second and no more between two tries.
            "restart_timeout 1\nkeepalive_interval 5\nnotifications true\n"
            "topic up1/# out 1\ntopic up2/# out 2\ntopic down1/# in 1\ntopic down2/# in 2\n")
        self.process = None

    def start(self):
        self.process = subprocess.Popen([MOSQUITTO, "-c", self.config])
        return self

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


class Speaker:
    """Publishes numbered messages, and knows how many were acknowledged."""

    def __init__(self, port, user=None):
        self.client = client("", mqtt.MQTTv311)
        self.client.max_queued_messages_set(0)
        if user:
            self.client.username_pw_set(*user)
        eventually(lambda: self.client.connect("127.0.0.1", port, 30) == 0, hoped=f"a broker listens on {port}")
        self.client.loop_start()

    def burst(self, way, numbers):
        """Hands them over and waits for nothing."""
        return [self.client.publish(f"{way}{qos}/n", str(n), qos=qos) for n in numbers for qos in (1, 2)]

    def say(self, way, numbers):
        for one in self.burst(way, numbers):
            one.wait_for_publish(30)

    def stop(self):
        self.client.disconnect()
        self.client.loop_stop()


def numbers(witness, topic):
    return [int(payload) for payload in witness.by_topic[topic]]


def in_order(witness, topic, count):
    """All of them came, in order; what came again came as it had before."""
    often = numbers(witness, topic)
    assert list(dict.fromkeys(often)) == list(range(count)), f"{topic}: {len(set(often))} came"


def complete(witness, way, last):
    def look():
        return all(str(last).encode() in witness.by_topic[f"{way}{qos}/n"] for qos in (1, 2))

    eventually(look, within=60, hoped=f"the last message comes {way}")


class Site:
    """Both brokers, the cable between them, and somebody at each end."""

    def __init__(self, gateway, port, begin, folder, version):
        self.gateway = gateway
        self.cable = Cable(("127.0.0.1", port))
        self.cable.stop = self.cable.cut
        begin(self.cable)
        self.bridge = begin(Bridge(folder, self.cable.port, version).start())
        self.bridged()
        self.here = begin(Witness(port, ["up1/#", "up2/#"], qos=2, user=USER))
        self.there = begin(Witness(self.bridge.port, ["down1/#", "down2/#"], qos=2))
        self.up, self.down = begin(Speaker(self.bridge.port)), begin(Speaker(port, USER))

    def connected(self):
        return {c["id"]: c for c in self.gateway.status()["broker"]["clients"]}

    def bridged(self):
        """The bridge as a client, when it has subscribed."""
        def look():
            one = self.connected()["site-bridge"]
            return one if one["subscriptions"] == 2 else None

        return eventually(look, within=40, hoped="the bridge has subscribed")

    def gone(self):
        eventually(lambda: "site-bridge" not in self.connected(), hoped="the bridge is away")


@pytest.fixture
def site(make_gateway, port, begin, tmp_path):
    gateway = make_gateway(YAML.format(port=port))
    done = gateway.command("passwd", "--file", gateway.folder / "users.yaml", USER[0], stdin=f"{USER[1]}\n")
    assert done.returncode == 0, done.stderr
    gateway.start()
    return lambda version: Site(gateway, port, begin, tmp_path, version)


def test_mosquitto_bridges_into_us_both_ways_and_a_cut_loses_nothing_and_doubles_nothing_at_qos_2(site):
    site = site("mqttv311")
    third = COUNT // 3
    site.up.say("up", range(third))
    site.down.say("down", range(third))
    # The cut falls amid these, with what is under way.
    site.up.burst("up", range(third, 2 * third))
    site.down.burst("down", range(third, 2 * third))
    site.cable.cut()
    site.gone()
    site.up.say("up", range(2 * third, COUNT))
    site.down.say("down", range(2 * third, COUNT))
    site.cable.mend()
    for witness, way in ((site.here, "up"), (site.there, "down")):
        complete(witness, way, COUNT - 1)
        in_order(witness, f"{way}1/n", COUNT)
        assert numbers(witness, f"{way}2/n") == list(range(COUNT)), f"{way} at QoS 2"
    assert site.gateway.status()["broker"]["dropped"] == 0


def test_mosquitto_bridges_into_us_with_mqtt_5(site):
    site = site("mqttv50")
    # It asks for no session beyond its connection, so that only what it keeps itself outlives a cut.
    assert (site.bridged()["version"], site.bridged()["session_expiry_s"]) == ("5", 0)
    third = COUNT // 3
    site.up.say("up", range(third))
    site.down.say("down", range(third))
    complete(site.there, "down", third - 1)
    assert sorted(numbers(site.there, "down2/n")) == list(range(third))
    site.up.burst("up", range(third, 2 * third))
    site.cable.cut()
    site.gone()
    site.up.say("up", range(2 * third, COUNT))
    site.cable.mend()
    site.bridged()
    site.down.say("down", range(third, COUNT))
    complete(site.here, "up", COUNT - 1)
    complete(site.there, "down", COUNT - 1)
    for qos in (1, 2):
        in_order(site.here, f"up{qos}/n", COUNT)
        # In which order it hands them on is its own matter here.
        assert sorted(numbers(site.there, f"down{qos}/n")) == list(range(COUNT))
