"""Commands that come from the cloud: only by a `receive` rule, once, and never retained ones."""

import json

from modbus_peer import TcpPeer, device
from rpc import Rpc
from waiting import eventually

YAML = """
gateway: plant
lines:
  plc: {line}
devices:
  - name: dev
    line: plc
    unit_id: 1
    every: 1s
    points:
      sp: {{holding: 0, write: true}}
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
upstreams:
  cloud:
    url: mqtt://127.0.0.1:{cloud}
    send: [{{filter: "plant/#", prefix: "sites/"}}]
    receive: [{{filter: "sites/plant/+/+/set", strip: "sites/"}}]
"""


def test_a_command_from_the_cloud_is_done_and_a_retained_one_refused(make_gateway, begin, witness, port, cloud):
    peer = begin(TcpPeer([device(1, [60])]).start())
    make_gateway(YAML.format(line=peer.line(), port=port, cloud=cloud.port)).start()
    far = witness(cloud.port, "sites/plant/#")
    eventually(lambda: far.json("sites/plant/dev/sp")["value"] == 60, hoped="the value is at the cloud")
    topic = "sites/plant/dev/sp/set"
    far.client.publish(topic, "12", qos=1)
    eventually(lambda: far.json("sites/plant/dev/sp")["value"] == 12, hoped="the command from the cloud is done")
    far.client.publish(topic, "13", qos=1, retain=True)
    eventually(lambda: [json.loads(p)["result"] for p in far.by_topic[topic + "/result"]] == ["written", "refused"],
               hoped="the retained one is refused, live as it came")
    assert far.json("sites/plant/dev/sp")["value"] == 12


def test_a_call_from_the_cloud_is_answered_there_with_its_correlation(make_gateway, begin, witness, port, cloud):
    peer = begin(TcpPeer([device(1, [60])]).start())
    text = YAML.format(line=peer.line(), port=port, cloud=cloud.port)
    make_gateway(text.replace('prefix: "sites/"}]', 'prefix: "sites/"}, {filter: "answers/#"}]')).start()
    far = witness(cloud.port, "sites/plant/#")
    eventually(lambda: far.json("sites/plant/dev/sp")["value"] == 60, hoped="the value is at the cloud")
    rpc = begin(Rpc(cloud.port))
    written = rpc.call("sites/plant/dev/sp/set", {"value": 12, "id": "a"})
    assert (written["result"], written["value"], peer.get(1, 0)) == ("written", 12, 12)
    refused = rpc.call("sites/plant/dev/sp/set", {"value": 70_000, "id": "b"})
    assert refused["result"] == "refused" and "does not fit" in refused["reason"]
