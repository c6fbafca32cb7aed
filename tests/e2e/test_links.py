"""Links as they are, seen from outside: what the gateway says when the fault is not the wire's."""

import pytest

from modbus_peer import TcpPeer, device
from waiting import eventually, free_port

YAML = """
gateway: plant
lines:
  fast: {line}
devices:
  - name: meter
    line: fast
    unit_id: 1
    points:
      p00: {{holding: 0, every: 200ms}}
publish:
  report: {{when: poll}}
broker:
  listen: [{{tcp: 127.0.0.1:{port}}}]
upstreams:
  cloud:
    url: mqtt://{host}
    mqtt: {version}
    client_id: the-same
    send:
      - {{filter: "plant/#", strip: "plant/", prefix: "sites/plant/", qos: 1}}
"""


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_two_gateways_with_one_client_id_are_told_so_in_words(version, make_gateway, begin, cloud):
    peer = begin(TcpPeer([device(1)]).start())
    text = YAML.format(line=peer.line(), port="{port}", host=f"127.0.0.1:{cloud.port}", version=version)
    two = [make_gateway(text.replace("{port}", str(free_port())), name=name).start() for name in ("one", "two")]
    for gateway in two:
        eventually(lambda g=gateway: g.saw("another client", "the-same", "set client_id"), within=60,
                   hoped="the log names the client id and says what to do")


def test_a_name_that_does_not_exist_is_said_with_the_name(make_gateway, begin, port):
    peer = begin(TcpPeer([device(1)]).start())
    gateway = make_gateway(YAML.format(line=peer.line(), port=port, host="cloud.invalid:1883", version=5)).start()
    eventually(lambda: "cloud.invalid cannot be resolved" in (gateway.upstream()["error"] or ""), within=30,
               hoped="the status names the name")
