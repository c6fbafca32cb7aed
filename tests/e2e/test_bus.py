"""Lines and devices that misbehave."""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile

from gateway import BINARY
from modbus_peer import SerialPeer, TcpPeer, device
from waiting import eventually, free_port

YAML = """
gateway: plant
lines:
  trunk: {line}
devices:
{devices}
publish: {{report: {{when: poll}}}}
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
"""
PERIOD = 0.2


def units(*ids):
    one = "  - {{name: unit-{0}, line: trunk, unit_id: {0}, points: {{v: {{holding: 0, every: 200ms}}}}}}"
    return "\n".join(one.format(i) for i in ids)


def periods(witness, unit, since):
    times = [at(p) for p in witness.by_topic[f"plant/unit-{unit}/v"][since:]]
    return [b - a for a, b in zip(times, times[1:])]


def at(payload):
    hours, minutes, rest = json.loads(payload)["time"][11:-1].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def test_a_device_that_never_answers_does_not_stretch_the_others_period(make_gateway, begin, witness, port):
    live = [1, 2, 3, 4]
    peer = begin(SerialPeer([device(i, [i]) for i in live], timeout="300ms").start())
    gateway = make_gateway(YAML.format(line=peer.line(), devices=units(*live, 9), port=port)).start()
    near = witness(port, "plant/#")
    eventually(lambda: gateway.device("unit-9")["state"] == "offline", within=60, hoped="the dead device is known to be dead")
    since = {i: len(near.by_topic[f"plant/unit-{i}/v"]) for i in live}
    eventually(lambda: all(len(near.by_topic[f"plant/unit-{i}/v"]) > since[i] + 60 for i in live), within=60,
               hoped="sixty periods of each live device")
    for i in live:
        seen = periods(near, i, since[i])
        # A silent device may cost a few percent of the line's time. The rest of the room here is the machine's noise.
        assert statistics.median(seen) <= 1.10 * PERIOD, f"unit {i}: {seen}"
        assert statistics.mean(seen) <= 1.25 * PERIOD, f"unit {i}: {seen}"
    assert all(gateway.device(f"unit-{i}")["state"] == "online" for i in live)


def test_a_silent_device_is_bad_not_zero_and_one_answer_brings_it_back(make_gateway, begin, witness, port):
    peer = begin(TcpPeer([device(1, [11])]).start())
    gateway = make_gateway(YAML.format(line=peer.line(), devices=units(1), port=port)).start()
    near = witness(port, "plant/#")
    topic = "plant/unit-1/v"
    eventually(lambda: near.json(topic)["value"] == 11, hoped="the value arrives")
    peer.stop()
    eventually(lambda: near.json(topic)["quality"] == "bad", within=30, hoped="the quality turns bad")
    assert near.json(topic)["value"] is None and near.json(topic)["reason"]
    state = eventually(lambda: (s := near.last("plant/unit-1/$state")) and b"offline" in s and s, within=60,
                       hoped="the device's state says offline")
    assert b"offline" in state
    again = TcpPeer([device(1, [12])])
    again.port = peer.port
    begin(again.start())
    eventually(lambda: near.json(topic)["value"] == 12, within=60, hoped="the value is back")
    assert gateway.device("unit-1")["state"] in ("online", "shaky")


def test_a_port_that_is_missing_is_named_and_taken_up_when_it_comes(make_gateway, begin, witness, port, tmp_path):
    peer = begin(SerialPeer([device(1, [11])]).start())
    path = tmp_path / "port0"
    line = peer.line().replace(peer.cable.near, str(path))
    gateway = make_gateway(YAML.format(line=line, devices=units(1), port=port)).start()
    eventually(lambda: gateway.saw(str(path)), hoped="the log names the missing port")
    assert gateway.process.poll() is None
    line = eventually(lambda: (s := gateway.status()["lines"][0])["error"] and s, hoped="the status says why")
    assert not line["up"]
    assert sum(str(path) in text for text in gateway.lines) <= 5, "the turn is logged, not the state"
    path.symlink_to(peer.cable.near)
    near = witness(port, "plant/#")
    eventually(lambda: near.json("plant/unit-1/v")["value"] == 11, within=60, hoped="the port is opened when it comes")


def test_a_port_without_permission_names_the_group_that_may(begin, port):
    """As root nothing is forbidden, so the gateway then runs as nobody, from a folder that nobody may read."""
    peer = begin(SerialPeer([device(1, [11])]).start())
    os.chmod(peer.cable.near, 0o060 if os.geteuid() == 0 else 0o000)
    group = pathlib.Path(peer.cable.near).group()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o777)
        binary = shutil.copy(BINARY, folder / "trunkline")
        config = folder / "gateway.yaml"
        config.write_text(YAML.format(line=peer.line(), devices=units(1), port=free_port()))
        (folder / "state").mkdir(mode=0o777)
        (folder / "state").chmod(0o777)
        other = {"user": "nobody", "extra_groups": [], "group": "nogroup"} if os.geteuid() == 0 else {}
        log = (folder / "log").open("w+")
        process = subprocess.Popen(
            [binary, "run", "-c", config, "--socket", folder / "state/control.sock"], stdout=log, stderr=log, cwd=folder,
            env={"STATE_DIRECTORY": str(folder / "state"), "RUNTIME_DIRECTORY": str(folder / "state"), "NO_COLOR": "1"},
            **other)
        try:
            text = eventually(lambda: (t := (folder / "log").read_text()) and "ermission" in t and t,
                              hoped="the log says that it may not")
        finally:
            process.kill()
            process.wait(10)
        assert peer.cable.near in text and group in text, text
        assert "usermod" in text or "group" in text, text
