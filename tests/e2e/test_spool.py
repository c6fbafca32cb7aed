"""A person looks at what waits, takes a copy of it, throws it away: while the gateway runs, and when it does not."""

import csv
import io
import json

from modbus_peer import Counting, TcpPeer, device
from test_store_and_forward import adds_up, arrived, config, values_at
from waiting import eventually


def offline_with_backlog(make_gateway, begin, witness, cloud, cable, port, values=400):
    """A gateway whose cloud was cut off before the first value; it has measured some since."""
    cable.cut()
    peer = begin(TcpPeer([device(1, action=Counting().action())]).start())
    gateway = make_gateway(config(peer, port, cable.port, points=10)).start()
    near = witness(port, "plant/meter/+")
    eventually(lambda: near.total >= values, within=60, hoped="values are measured without the cloud")
    return gateway, near


def spool(gateway, *arguments):
    done = gateway.command("spool", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_backlog_is_shown_and_exported_while_it_grows_and_none_of_it_is_taken_out(
        make_gateway, begin, witness, cloud, cable, port):
    gateway, near = offline_with_backlog(make_gateway, begin, witness, cloud, cable, port)
    there = ("--socket", gateway.socket)
    truth = values_at(near, "plant/meter/")
    # What the broker gave to its clients was given to the log at the same moment.
    exported = rows(eventually(
        lambda: (text := spool(gateway, "export", *there)).count("\n") > sum(map(len, truth.values())) and text,
        hoped="all of it is in the export"))
    by_topic = {}
    for row in exported:
        if row["quality"]:
            by_topic.setdefault(row["topic"].removeprefix("plant/meter/"), []).append(row)
    for point, payloads in truth.items():
        for payload, row in zip(map(json.loads, payloads), by_topic[point][-len(by_topic[point]):]):
            assert row["upstreams"] == "cloud" and row["quality"] == "good", row
        times = [row["time"] for row in by_topic[point]]
        assert times == sorted(times)
        values = {(row["time"], float(row["value"])) for row in by_topic[point]}
        assert {(p["time"], float(p["value"])) for p in map(json.loads, payloads)} <= values

    survey = json.loads(spool(gateway, "show", "--json", *there))
    cloud_backlog = survey["upstreams"]["cloud"]
    assert cloud_backlog["entries"] == sum(survey["topics"].values()) >= len(exported)
    assert cloud_backlog["oldest"] <= exported[0]["time"]
    assert "plant/meter/p00" in spool(gateway, "show", *there)
    line = json.loads(spool(gateway, "export", "--format", "jsonl", "--upstream", "cloud", *there).splitlines()[-1])
    assert line["upstreams"] == ["cloud"], line
    assert "no upstream `clod`" in gateway.command("spool", "export", "--upstream", "clod", *there).stderr
    assert "in use" in gateway.command("spool", "show", "-c", gateway.config).stderr
    adds_up(gateway)

    far = witness(cloud.port, "sites/plant/#")
    cable.mend()
    eventually(lambda: not arrived(truth, values_at(far, "sites/plant/meter/")), within=30, hoped="all of it is sent")


def test_what_a_person_throws_away_is_counted_and_told_to_the_cloud(
        make_gateway, begin, witness, cloud, cable, port):
    gateway, _ = offline_with_backlog(make_gateway, begin, witness, cloud, cable, port)
    there = ("--socket", gateway.socket)
    refused = gateway.command("spool", "clear", *there)
    assert refused.returncode == 1 and "--yes" in refused.stderr, refused
    assert adds_up(gateway)["cleared"] == 0
    said = spool(gateway, "clear", "--yes", *there)
    ledger = adds_up(gateway)
    first = ledger["cleared"]
    assert first >= 400 and f"cloud: {first} entries thrown away" in said, (ledger, said)
    assert gateway.saw("thrown away", "cloud"), gateway.log()

    # The same on the file, when the gateway does not run.
    before = ledger["appended"]
    eventually(lambda: adds_up(gateway)["appended"] >= before + 100, hoped="more is measured")
    assert gateway.stop() == 0
    waiting = json.loads(spool(gateway, "show", "--json", "-c", gateway.config))["upstreams"]["cloud"]
    assert waiting["gaps"] == 1 and waiting["missing"] == first, waiting
    exported = rows(spool(gateway, "export", "-c", gateway.config, gateway.folder / "backlog.csv") or
                    (gateway.folder / "backlog.csv").read_text())
    assert len(exported) == waiting["entries"] + 1, "the gap is a line of its own"
    assert f"cloud: {waiting['entries']} entries thrown away" in spool(gateway, "clear", "--yes", "-c", gateway.config)
    assert json.loads(spool(gateway, "show", "--json", "-c", gateway.config))["upstreams"]["cloud"]["entries"] == 0

    far = witness(cloud.port, "sites/plant/#")
    gateway.start()
    assert adds_up(gateway)["cleared"] == first + waiting["entries"]
    cable.mend()
    told = eventually(lambda: (g := far.by_topic.get("sites/plant/$gap")) and sum(json.loads(p)["count"] for p in g) and g,
                      hoped="the cloud is told of the gap")
    eventually(lambda: sum(json.loads(p)["count"] for p in told) == first + waiting["entries"],
               hoped="of all that was thrown away")


def test_the_gateway_tells_about_itself_and_its_account_adds_up(make_gateway, begin, witness, cloud, cable, port):
    peer = begin(TcpPeer([device(1, action=Counting().action())]).start())
    gateway = make_gateway(config(peer, port, cable.port, points=10) + "stats: {every: 1s}\n").start()
    near, far = witness(port, "plant/$stats/#"), witness(cloud.port, "sites/plant/$stats/#")
    for topic in ("ledger", "spool", "line/fast", "upstream/cloud"):
        eventually(lambda: near.last(f"plant/$stats/{topic}"), hoped=f"$stats/{topic} is told")
        eventually(lambda: far.last(f"sites/plant/$stats/{topic}"), hoped=f"$stats/{topic} reaches the cloud")
    eventually(lambda: near.json("plant/$stats/ledger")["polled"] > 100, hoped="the account grows")
    eventually(lambda: near.json("plant/$stats/upstream/cloud")["acknowledged"] > 100, hoped="the ledger grows")
    assert near.json("plant/$stats/ledger")["adds_up"] and near.json("plant/$stats/upstream/cloud")["adds_up"]
    assert not near.retained
    adds_up(gateway)

    books = json.loads(gateway.command("ledger", "--json", "--socket", gateway.socket).stdout)
    assert [p["point"] for p in books["points"]] == [f"meter/p{n:02}" for n in range(10)]
    for account in [books["total"], *books["points"]]:
        assert account["polled"] == sum(account[k] for k in ("suppressed", "published", "failed", "held")), account
    assert "meter/p03" in gateway.command("ledger", "p03", "--socket", gateway.socket).stdout
    before = books["total"]["polled"]
    assert gateway.stop() == 0
    gateway.start()
    after = json.loads(gateway.command("ledger", "--json", "--socket", gateway.socket).stdout)
    assert after["total"]["polled"] >= before and after["points"][0]["polled"] >= books["points"][0]["polled"]
