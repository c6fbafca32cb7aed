"""A preset at work: what the cloud is sent, and what `check` and `explain` say beforehand."""

import json

from modbus_peer import TcpPeer, device
from waiting import eventually

YAML = """
gateway: plant
lines: {{plc: {line}}}
devices:
  - {{name: chiller, line: plc, unit_id: 1, every: 200ms, points: {{supply: {{holding: 0}}}}}}
publish:
  report: {{when: poll}}
  payload: '{{"{{device}}":[{{"ts":{{time_ms}},"values":{{"{{point}}":{{value}}}}}}]}}'
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
upstreams:
  cloud:
    preset: thingsboard
    url: mqtt://127.0.0.1:{cloud}
    username: {{file: token}}
    send:
      - {{filter: "plant/#", topic: v1/gateway/telemetry}}
"""


def test_thingsboard_gets_its_own_json_on_its_own_topic_and_nothing_else(make_gateway, begin, witness, port, cloud):
    peer = begin(TcpPeer([device(1, [60])]).start())
    far = witness(cloud.port, "#")
    gateway = make_gateway(YAML.format(line=peer.line(), port=port, cloud=cloud.port))
    (gateway.folder / "token").write_text("A1_TOKEN\n")
    checked = gateway.command("check", "-c", gateway.config)
    assert checked.returncode == 0 and "retain flags are taken off: ThingsBoard" in checked.stdout, checked
    assert "A1_TOKEN" not in checked.stdout + checked.stderr
    gateway.start()
    value = eventually(lambda: far.json("v1/gateway/telemetry") or None, hoped="a value is at the cloud")
    assert value["chiller"][0]["values"] == {"supply": 60} and value["chiller"][0]["ts"] > 1_700_000_000_000, value
    eventually(lambda: gateway.upstream()["refused"] >= 1, hoped="the device's state is put aside and counted")
    assert set(far.topics()) == {"v1/gateway/telemetry"}
    assert all(json.loads(p).keys() == {"chiller"} for p in far.by_topic["v1/gateway/telemetry"])
    late = witness(cloud.port, "#")
    eventually(lambda: late.total > 0, hoped="somebody who comes later sees the next value")
    assert late.retained == {}, "nothing is kept there"
    assert gateway.saw("put aside", "no telemetry"), gateway.log()


def test_explain_tells_by_its_exit_code_whether_a_topic_goes_anywhere(make_gateway, port, cloud):
    gateway = make_gateway(YAML.format(line="{tcp: 127.0.0.1:1}", port=port, cloud=cloud.port))
    (gateway.folder / "token").write_text("A1_TOKEN\n")
    goes = gateway.command("explain", "plant/chiller/supply", "-c", gateway.config, "--json")
    assert goes.returncode == 0, goes
    way = json.loads(goes.stdout)["ways"][0]
    assert (way["topic"], way["retain"], way["rule"]) == ("v1/gateway/telemetry", "never", 1)
    assert way["place"].endswith("gateway.yaml:16"), way
    state = gateway.command("explain", "plant/chiller/$state", "-c", gateway.config)
    assert state.returncode == 1 and "put aside" in state.stdout, state
    nowhere = gateway.command("explain", "else/where", "-c", gateway.config)
    assert nowhere.returncode == 1 and "no `send` rule matches: plant/#" in nowhere.stdout, nowhere
