"""The audit trail: whatever is written to a machine, or refused, is told with who wanted it, from where and what came of it; it
outlives a kill, keeps its size, and a disk that fails holds up nobody."""

import json

import pytest

from modbus_peer import TcpPeer, device
from test_faulty_disk import Disk, shim  # noqa: F401 (a fixture)
from waiting import eventually

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
      setpoint: {{holding: 0, type: i16, scale: 0.1, write: {{min: 4, max: 18, step: 0.5}}}}
      mode: {{holding: 1, write: true}}
      pump: {{holding: 2, write: true, fail_safe: {{value: 0, when: {{client: hmi}}, after: 1s}}}}
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
{more}
"""
CLOUD = """
upstreams:
  cloud:
    url: mqtt://127.0.0.1:{cloud}
    send: [{{filter: "plant/#"}}]
    receive: [{{filter: "plant/+/+/set"}}]
"""
SETPOINT, MODE = "plant/chiller/setpoint/set", "plant/chiller/mode/set"


def site(make_gateway, begin, port, more="", extra=""):
    peer = begin(TcpPeer([device(1, [60, 0, 1])]).start())
    return make_gateway(YAML.format(line=peer.line(extra=extra), port=port, more=more)), peer


def said(gateway, *arguments):
    """What `trunkline audit --json` shows, the oldest first."""
    done = gateway.command("audit", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def trail(gateway, *arguments):
    return said(gateway, "--socket", gateway.socket, *arguments)


def answered(near, topic, payload):
    """Publishes and waits for one more answer; to a command with an id, for one with that id. Far from the gateway the answers to
    commands that others gave may still be on their way: there a command needs an id."""
    before = len(near.by_topic[f"{topic}/result"])
    near.client.publish(topic, payload if isinstance(payload, str) else json.dumps(payload), qos=1)
    wanted = payload.get("id") if isinstance(payload, dict) else None

    def own():
        answers = map(json.loads, near.by_topic[f"{topic}/result"][before:])
        return next((answer for answer in answers if answer.get("id") == wanted), None)

    return eventually(own, hoped=f"{payload} on {topic} is answered")


def test_everything_that_was_written_or_refused_is_told_with_who_and_why_also_after_a_kill(
        make_gateway, begin, witness, port, cloud):
    gateway, peer = site(make_gateway, begin, port, CLOUD.format(cloud=cloud.port), extra=", raw_access: true")
    gateway.start()
    gateway.connected()
    near, far = witness(port, "plant/#", client_id="panel"), witness(cloud.port, "plant/#")
    assert answered(near, SETPOINT, {"value": 7.5, "id": "a7"})["result"] == "written"
    assert answered(near, SETPOINT, 30)["result"] == "refused"
    assert answered(far, SETPOINT, {"value": 8, "id": "f8"})["result"] == "written"
    writes = {"writes": [{"point": "setpoint", "value": 9}, {"point": "mode", "value": 3}]}
    assert answered(near, "plant/chiller/set", writes)["result"] == "written"
    raw = gateway.command("modbus", "plc", "1", "write", "holding", "1", "5", "--socket", gateway.socket)
    assert raw.returncode == 0 and peer.get(1, 1) == 5, raw.stderr
    eventually(lambda: peer.get(1, 2) == 0, hoped="the fail-safe is in force")
    eventually(lambda: any(e["cause"] == "fail-safe" and "outcome" in e for e in trail(gateway)), hoped="and told")

    def row(entry):
        asked = entry["asked"]
        return (entry["cause"], entry["outcome"]["result"], [(a.get("point"), a.get("value")) for a in asked])

    def of(cause, **who):
        return [e for e in trail(gateway) if e["cause"] == cause and who.items() <= e["from"].items()]

    one, refused, several = of("command", client="panel")
    assert row(one) == ("command", "written", [("setpoint", 7.5)]) and one["id"] == "a7", one
    assert one["from"]["peer"].startswith("127.0.0.1:") and one["asked"][0]["raw"] == "holding 0 = 75"
    assert (one["device"], one["line"], one["unit_id"], one["topic"]) == ("chiller", "plc", 1, SETPOINT)
    assert row(refused) == ("command", "refused", [("setpoint", 30)]) and "outside" in refused["outcome"]["reason"]
    assert row(several) == ("command", "written", [("setpoint", 9), ("mode", 3)])
    (above,) = of("command", upstream="cloud")
    assert row(above) == ("command", "written", [("setpoint", 8)])
    (safe,) = of("fail-safe")
    assert row(safe) == ("fail-safe", "written", [("pump", 0)])
    assert safe["from"] == {} and safe["why"] == "client hmi is gone", safe
    (asked_raw,) = of("raw")
    assert asked_raw["outcome"]["result"] == "written" and "holding 1 = 5" in asked_raw["asked"][0]["raw"], asked_raw
    assert asked_raw["from"]["local"] and (asked_raw["line"], asked_raw["unit_id"]) == ("plc", 1)

    told = {json.loads(p)["seq"]: json.loads(p) for p in near.by_topic["plant/$audit"]}
    assert told == {e["seq"]: e for e in trail(gateway)}, "the topic tells the same"
    table = gateway.command("audit", "--socket", gateway.socket).stdout
    for words in ["panel", "upstream cloud", "fail-safe", "setpoint = 7.5", "written 7.5", "refused: 30 is outside 4 to 18",
                  "mode = 3", "raw function", "client hmi is gone"]:
        assert words in table, f"{words} is not in\n{table}"
    assert [e["seq"] for e in trail(gateway, "--who", "cloud")] == [above["seq"]]
    assert [e["seq"] for e in trail(gateway, "--last", "1")] == [trail(gateway)[-1]["seq"]]

    before = trail(gateway)
    gateway.kill()
    assert said(gateway, "-c", gateway.config) == before, "read from the file while no gateway runs"
    gateway.start()
    heard = near.total
    eventually(lambda: near.total > heard, hoped="the panel is back")
    again = answered(near, SETPOINT, {"value": 7.5, "id": "a7"})
    assert again["time"] == one["outcome"]["time"], "the first result, and not done again"
    eventually(lambda: trail(gateway)[:len(before)] == before, hoped="the trail goes on")
    assert peer.get(1, 0) == 90, "what was written after it stands"
    repeated = [e for e in trail(gateway)[len(before):] if e.get("id") == "a7"]
    assert [e["outcome"]["result"] for e in repeated] == ["refused"], repeated


def test_the_oldest_entries_go_when_the_file_has_its_size(make_gateway, begin, witness, port):
    gateway, _ = site(make_gateway, begin, port, "audit: {max_size: 256KiB}")
    gateway.start()
    near = witness(port, "plant/#")
    count = 400
    for n in range(count):
        assert answered(near, "plant/chiller/set", {"writes": [{"point": "mode", "value": n}]})["result"] == "written"
    status = gateway.status()["audit"]
    assert status["disk_bytes"] <= 256 * 1024 and not status["error"], status
    entries = [e for e in trail(gateway, "--last", "5000") if e["outcome"]["result"] == "written"]
    values = [e["asked"][0]["value"] for e in entries if e.get("topic") == "plant/chiller/set"]
    assert values[-1] == count - 1 and 100 < len(values) < count, len(values)
    assert values == list(range(count - len(values), count)), "the newest, without a hole"


@pytest.mark.parametrize("how", ["eio", "enospc", "erofs"])
def test_a_disk_that_fails_holds_up_no_write_and_is_said_and_the_trail_is_made_good(
        how, make_gateway, begin, witness, port, shim, tmp_path):  # noqa: F811
    gateway, peer = site(make_gateway, begin, port)
    disk = Disk(gateway, shim, tmp_path, "/audit.db")
    gateway.start()
    near = witness(port, "plant/#")
    assert answered(near, MODE, "1")["result"] == "written"
    disk.fails(how)
    quick = answered(near, MODE, {"value": 2, "id": "b"})
    assert quick["result"] == "written" and quick["duration_ms"] < 1000 and peer.get(1, 1) == 2, quick
    status = eventually(lambda: (s := gateway.status()["audit"])["error"] and s, hoped="the fault is in the status")
    assert status["waiting"] >= 1 and gateway.saw("audit", "cannot be recorded"), status
    assert "ALARM: the audit trail cannot be written" in gateway.command("status", "--socket", gateway.socket).stdout
    assert answered(near, MODE, {"value": 2, "id": "b"})["time"] == quick["time"], "an id is known all the same"
    disk.mend()
    eventually(lambda: not gateway.status()["audit"]["error"], hoped="the disk is used again")
    values = [e["asked"][0]["value"] for e in trail(gateway) if e.get("topic") == MODE and e["outcome"]["result"] == "written"]
    assert values == [1, 2], values


def test_where_the_trail_must_not_have_holes_nothing_is_written_while_the_disk_fails(
        make_gateway, begin, witness, port, shim, tmp_path):  # noqa: F811
    gateway, peer = site(make_gateway, begin, port, "audit: {when_unwritable: refuse}")
    disk = Disk(gateway, shim, tmp_path, "/audit.db")
    gateway.start()
    near = witness(port, "plant/#")
    assert answered(near, MODE, "1")["result"] == "written"
    disk.fails("enospc")
    refused = answered(near, MODE, {"value": 2, "id": "b"})
    assert refused["result"] == "refused" and "nothing was sent" in refused["reason"], refused
    assert peer.get(1, 1) == 1
    disk.mend()
    assert answered(near, MODE, {"value": 2, "id": "b"})["result"] == "written", "the same id may be asked again"
    assert peer.get(1, 1) == 2
