"""The main job once through, as a box does it: Modbus in, TLS to the cloud, a cut, a power cut, and everything arrives. Short
enough for the binaries of other processors, which run it in an emulator (cross/emulate)."""

import json

import pytest

from cloud import Cable, Mosquitto
from modbus_peer import Counting, TcpPeer, device
from waiting import eventually

pytestmark = pytest.mark.emulated

YAML = """
gateway: box
lines:
  meters: {line}
devices:
  - name: meter
    line: meters
    unit_id: 1
    points:
      a: {{holding: 0, every: 200ms}}
      b: {{holding: 1, every: 200ms}}
publish:
  report: {{when: poll}}
broker:
  listen: [{{tcp: 127.0.0.1:{port}}}]
upstreams:
  cloud:
    url: mqtts://localhost:{cloud}
    tls: {{ca: {ca}}}
    send:
      - {{filter: "box/#", qos: 1}}
"""


def numbers(witness, point):
    """What was seen of one point, without the readings that failed."""
    seen = [json.loads(payload)["value"] for payload in list(witness.by_topic[f"box/meter/{point}"])]
    return [n for n in seen if n is not None]


def test_through_tls_a_cut_and_a_power_cut_every_value_arrives_once_and_in_order(
        make_gateway, begin, witness, tmp_path, port):
    cloud = begin(Mosquitto(tmp_path).also_by_tls().start())
    cable = Cable(("127.0.0.1", cloud.tls_port))
    cable.stop = cable.cut
    begin(cable)
    peer = begin(TcpPeer([device(1, action=Counting().action())]).start())
    far = witness(cloud.port, "box/#")
    gateway = make_gateway(YAML.format(line=peer.line(), port=port, cloud=cable.port, ca=cloud.ca)).start()
    near = witness(port, "box/#")
    gateway.connected()
    eventually(lambda: len(numbers(far, "a")) > 10, hoped="values flow through TLS")

    cable.cut_between_packets()
    mark = len(numbers(near, "a"))
    eventually(lambda: len(numbers(near, "a")) > mark + 20, within=60, hoped="values are measured without the cloud")
    waiting = gateway.status()["spool"]["backlog"]["cloud"]
    assert waiting > 20, waiting
    measured = {point: numbers(near, point)[:-5] for point in "ab"}
    near.stop()
    # The last five readings of a point are a second's worth: what a power cut may take.
    gateway.kill()

    gateway.start()
    cable.mend()
    gateway.connected()
    for point, truth in measured.items():
        eventually(lambda p=point, t=truth: set(t) <= set(numbers(far, p)), within=60, hoped=f"all of {point} is in the cloud")
        seen = numbers(far, point)
        assert seen == sorted(set(seen)), f"{point}: not in order, or not once"
