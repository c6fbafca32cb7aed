"""What the gateway measured reaches the cloud: through an outage, through kill -9, through a full disk."""

import json
import os
import subprocess

import pytest

from modbus_peer import Counting, TcpPeer, device
from waiting import eventually

YAML = """
gateway: plant
lines:
  fast: {line}
devices:
  - name: meter
    line: fast
    unit_id: 1
    points:
{points}
publish:
  report: {{when: poll}}
broker:
  listen: [{{tcp: 127.0.0.1:{port}}}]
  limits: {{queue: 50000}}
upstreams:
  cloud:
    url: mqtt://127.0.0.1:{cloud}
    mqtt: {version}
    keep_alive: 5s
    send:
      - {{filter: "plant/#", strip: "plant/", prefix: "sites/plant/", qos: 1}}
spool: {{{spool}}}
"""
# The spool commits at least this often while offline; what came later than that before a power cut may be gone.
COMMIT_INTERVAL = 1.0


def config(peer, port, cloud_port, points=50, every="100ms", version=5, spool="max_size: 64MiB"):
    names = "\n".join(f"      p{n:02}: {{holding: {n}, every: {every}}}" for n in range(points))
    return YAML.format(line=peer.line(), points=names, port=port, cloud=cloud_port, version=version, spool=spool)


def values_at(witness, prefix):
    """By point: the payloads in the order seen, without what the gateway says about itself."""
    found = {}
    for topic in list(witness.by_topic):
        if topic.startswith(prefix) and "$" not in topic:
            found[topic.removeprefix(prefix)] = list(witness.by_topic[topic])
    return found


def arrived(local, cloud):
    """Every point: how many of the local sequence the cloud's sequence holds, from the first one that both saw."""
    missing = {}
    for point, truth in local.items():
        have = set(cloud.get(point, []))
        gone = [payload for payload in truth if payload not in have]
        if gone:
            missing[point] = len(gone), gone[0]
    return missing


def from_first_common(local, cloud):
    for point, truth in local.items():
        begin = cloud[point].index(truth[0])
        yield point, truth, cloud[point][begin:]


def adds_up(gateway, upstream="cloud"):
    """Both accounts come out to the last reading and the last entry, in what the gateway says to programs and to people, and
    what it says is stored is what lies in the log. Gives the upstream's ledger."""
    status = gateway.status()
    values = status["publish"]
    assert values["polled"] == sum(values[fate] for fate in ("suppressed", "published", "failed", "held")), values
    for name, ledger in status["spool"]["ledger"].items():
        assert ledger["appended"] == sum(n for fate, n in ledger.items() if fate != "appended"), (name, ledger)
    assert "the ledger adds up" in gateway.command("status", "--socket", gateway.socket).stdout
    link = next(u for u in status["upstreams"] if u["name"] == upstream)
    if link["state"] != "connected":
        # Nothing leaves meanwhile unless the log is full, so that what is counted one by one lies between two states.
        shown = gateway.command("spool", "show", "--json", "--socket", gateway.socket)
        counted = json.loads(shown.stdout)["upstreams"][upstream]["entries"]
        then = status["spool"]["ledger"][upstream]
        left = lambda ledger: [ledger[why] for why in ("acknowledged", "evicted", "expired", "damaged", "cleared")]  # noqa: E731
        # The status is up to a commit interval older than the log itself.
        now = eventually(lambda: (l := gateway.status()["spool"]["ledger"][upstream])
                         and (left(l) != left(then) or l["stored"] + l["in_flight"] >= counted) and l,
                         within=5, hoped=f"{counted} entries that were counted one by one are in the ledger")
        assert left(now) != left(then) or then["stored"] + then["in_flight"] <= counted, (then, counted, now)
    return gateway.status()["spool"]["ledger"][upstream]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_after_thirty_seconds_without_the_cloud_every_value_arrives_in_order_and_once(
        version, make_gateway, begin, witness, cloud, cable, port):
    peer = begin(TcpPeer([device(1, action=Counting().action())]).start())
    gateway = make_gateway(config(peer, port, cable.port, version=version)).start()
    far = witness(cloud.port, "sites/plant/#")
    near = witness(port, "plant/#")
    gateway.connected()
    eventually(lambda: far.total > 500 and near.total > 500, hoped="values flow while the link is up")

    cable.cut_between_packets()
    before = near.total
    # Thirty seconds at 500 values a second, counted in values: a slow machine takes longer, and proves the same.
    eventually(lambda: near.total - before >= 15_000, within=120, hoped="15,000 values were measured without the cloud")
    waiting = gateway.status()["spool"]
    assert waiting["backlog"]["cloud"] > 10_000, waiting
    adds_up(gateway)
    cable.mend()

    fence = values_at(near, "plant/meter/")
    eventually(lambda: not arrived(fence, values_at(far, "sites/plant/meter/")), within=60, every=0.5,
               hoped="everything that the local subscriber saw is in the cloud")
    assert sum(map(len, fence.values())) >= 15_000
    for point, truth, seen in from_first_common(fence, values_at(far, "sites/plant/meter/")):
        assert seen[: len(truth)] == truth, f"{point}: not in order, or not once"
    spool = gateway.status()["spool"]
    assert (spool["evicted"], spool["expired"], spool["overrun"]) == (0, 0, 0)
    ledger = adds_up(gateway)
    assert ledger["acknowledged"] >= sum(map(len, fence.values())), ledger


def test_a_cut_in_the_middle_of_a_packet_loses_nothing_and_repeats_only_what_was_in_flight(
        make_gateway, begin, witness, cloud, cable, port):
    peer = begin(TcpPeer([device(1, action=Counting().action())]).start())
    gateway = make_gateway(config(peer, port, cable.port)).start()
    far = witness(cloud.port, "sites/plant/#")
    near = witness(port, "plant/#")
    gateway.connected()
    for _ in range(5):
        mark = far.total
        eventually(lambda: far.total > mark + 300, hoped="values flow")
        cable.cut()
        mark = near.total
        eventually(lambda: near.total > mark + 300, hoped="values are measured without the cloud")
        adds_up(gateway)
        cable.mend()
        gateway.connected()
    fence = values_at(near, "plant/meter/")
    eventually(lambda: not arrived(fence, values_at(far, "sites/plant/meter/")), within=60, every=0.5,
               hoped="everything arrived")
    repeats = 0
    for point, truth, seen in from_first_common(fence, values_at(far, "sites/plant/meter/")):
        repeats += len(seen) - len(set(seen))
        assert list(dict.fromkeys(seen))[: len(truth)] == truth, f"{point}: not in order"
    assert repeats <= gateway.upstream()["resent"] <= 5 * 100 + 5
    adds_up(gateway)


def test_what_was_measured_before_kill_9_while_offline_arrives_after_the_restart(
        make_gateway, begin, witness, cloud, cable, port):
    peer = begin(TcpPeer([device(1, action=Counting().action())]).start())
    gateway = make_gateway(config(peer, port, cable.port, points=20)).start()
    far = witness(cloud.port, "sites/plant/#")
    near = witness(port, "plant/#")
    gateway.connected()
    eventually(lambda: far.total > 200, hoped="values flow while the link is up")
    cable.cut_between_packets()
    before = near.total
    eventually(lambda: near.total - before >= 2_000, within=60, hoped="values are measured without the cloud")
    gateway.kill()
    near.stop()
    truth = values_at(near, "plant/meter/")
    assert sum(map(len, truth.values())) >= 2_000
    last = max(seconds(payload) for seen in truth.values() for payload in seen)
    kept = {point: [p for p in seen if seconds(p) <= last - COMMIT_INTERVAL] for point, seen in truth.items()}

    gateway.start()
    after = adds_up(gateway)
    assert after["appended"] >= sum(map(len, kept.values())), "the ledger is as old as the log, not older"
    cable.mend()
    gateway.connected()
    eventually(lambda: not arrived(kept, values_at(far, "sites/plant/meter/")), within=60, every=0.5,
               hoped="everything measured up to one commit interval before the kill is in the cloud")
    for point, seen in values_at(far, "sites/plant/meter/").items():
        numbers = [v for v in (json.loads(p)["value"] for p in seen) if v is not None]
        assert numbers == sorted(set(numbers)), f"{point}: not in order, or not once"
    assert adds_up(gateway)["damaged"] == 0


def seconds(payload):
    """The sample's own time as seconds of the day; the test is over before midnight comes round twice."""
    hours, minutes, rest = json.loads(payload)["time"][11:-1].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def test_a_clean_stop_while_offline_loses_not_even_the_last_value(make_gateway, begin, witness, cloud, cable, port):
    peer = begin(TcpPeer([device(1, action=Counting().action())]).start())
    gateway = make_gateway(config(peer, port, cable.port, points=10)).start()
    far = witness(cloud.port, "sites/plant/#")
    near = witness(port, "plant/#")
    gateway.connected()
    eventually(lambda: far.total > 100, hoped="values flow")
    cable.cut_between_packets()
    before = near.total
    eventually(lambda: near.total - before >= 300, hoped="values are measured without the cloud")
    before = adds_up(gateway)
    assert gateway.stop() == 0
    truth = values_at(near, "plant/meter/")
    gateway.start()
    assert adds_up(gateway)["appended"] > before["appended"], "the ledger goes on where it was"
    cable.mend()
    eventually(lambda: not arrived(truth, values_at(far, "sites/plant/meter/")), within=30, every=0.2,
               hoped="all of it is in the cloud")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_said_and_what_fits_is_kept(make_gateway, begin, witness, cloud, cable, port, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], check=True)
    try:
        peer = begin(TcpPeer([device(1, action=Counting().action())]).start())
        gateway = make_gateway(config(peer, port, cable.port, every="50ms"), state=disk).start()
        far = witness(cloud.port, "sites/plant/#")
        near = witness(port, "plant/#")
        gateway.connected()
        cable.cut_between_packets()
        eventually(lambda: gateway.status()["spool"]["error"], within=120, every=0.2, hoped="the full disk is in the status")
        assert gateway.saw("disk") or gateway.saw("full"), gateway.log()
        adds_up(gateway)
        before = near.total
        eventually(lambda: near.total > before + 1000, hoped="the local clients do not notice")
        cable.mend()
        gateway.connected()
        mark = far.total
        eventually(lambda: far.total > mark + 1000, hoped="values flow to the cloud again")
        adds_up(gateway)
        gateway.stop()
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_what_cannot_be_kept_is_counted(make_gateway, begin, cloud, cable, port):
    cable.cut()
    peer = begin(TcpPeer([device(1, action=Counting().action())]).start())
    gateway = make_gateway(config(peer, port, cable.port, every="20ms", spool="max_size: 1MiB")).start()
    spool = eventually(lambda: (s := gateway.status()["spool"])["evicted"] and s, within=120, every=0.2,
                       hoped="the oldest entries leave a full spool, and are counted")
    assert spool["disk_bytes"] <= 1_300_000, spool
    ledger = spool["ledger"]["cloud"]
    assert ledger["appended"] == ledger["stored"] + ledger["evicted"], ledger
    assert adds_up(gateway)["evicted"] > 0


def test_a_torn_file_is_set_aside_what_it_held_is_said_and_the_account_begins_anew(
        make_gateway, begin, witness, cloud, cable, port):
    peer = begin(TcpPeer([device(1, action=Counting().action())]).start())
    cable.cut()
    gateway = make_gateway(config(peer, port, cable.port, every="20ms")).start()
    eventually(lambda: adds_up(gateway)["stored"] > 5_000, within=60, hoped="a backlog lies on disk")
    gateway.stop()
    path = gateway.state / "spool.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096 * 8)
        file.write(b"\x5a" * (size // 2))
        file.truncate(size - 4096 * 3)
    gateway.start()
    assert gateway.saw("set aside", "spool.db.damaged-1"), gateway.log()
    assert (gateway.state / "spool.db.damaged-1").exists()
    assert "spool.db.damaged-1" in gateway.status()["spool"]["set_aside"]
    adds_up(gateway)
    far = witness(cloud.port, "sites/plant/#")
    cable.mend()
    eventually(lambda: far.total > 500, hoped="values flow")
    adds_up(gateway)
