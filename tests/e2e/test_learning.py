"""What devices refuse is found, said once, remembered over a restart, forgotten on request, tried again after an absence."""

import json

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from modbus_peer import TcpPeer, device
from waiting import eventually

YAML = """
gateway: plant
lines:
  trunk: {line}
devices:
  - name: meter-1
    line: trunk
    unit_id: 1
    every: 200ms
    points: {{a: {{holding: 3}}, b: {{holding: 4}}, c: {{holding: 5}}, d: {{holding: 8}}, e: {{holding: 12}}}}
publish: {{report: {{when: poll}}}}
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
"""
# Register 4 is wanted and missing; 10 and 11 are missing too, and would only be read along.
MISSING = {4, 10, 11}
KNOWN = ["holding 4", "holding before 12"]
SAID = ("does not have this", "range=4")


class HoledPeer(TcpPeer):
    """Registers 0 to 12 without the missing ones, each holding its address times ten; notes what it is asked for."""

    def __init__(self):
        blocks = [SimData(first, values=[10 * n for n in range(first, last + 1)], datatype=DataType.REGISTERS)
                  for first, last in [(0, 3), (5, 9), (12, 12)]]
        bits = SimData(0, values=[False] * 16, datatype=DataType.BITS)
        super().__init__([SimDevice(1, simdata=([bits], [bits], blocks, blocks))])
        self.asked = []

    def make(self):
        return ModbusTcpServer(self.devices, framer=self.framer, address=("127.0.0.1", self.port), trace_pdu=self.note)

    def note(self, sending, pdu):
        if not sending:
            self.asked.append(set(range(pdu.address, pdu.address + pdu.count)))
        return pdu

    def crossed(self):
        return [sorted(read) for read in self.asked if read & MISSING]


def values_around(near, since=0):
    """Two more readings of every point than `since`, the last of them good, but for the one that is missing."""
    topics = {point: f"plant/meter-1/{point}" for point in "abcde"}

    def look():
        last = {point: near.json(topic) for point, topic in topics.items()}
        missing = last.pop("b")
        return (all(len(near.by_topic[topic]) >= since + 2 for topic in topics.values())
                and (missing["quality"], missing["reason"]) == ("bad", "exception 2")
                and {point: seen["value"] for point, seen in last.items()} == {"a": 30, "c": 50, "d": 80, "e": 120})

    eventually(look, hoped="the values around the holes")


def notes(gateway):
    return json.loads((gateway.state / "learned.json").read_text())["devices"]


def test_a_hole_is_said_once_remembered_over_a_power_cut_and_forgotten_on_request(make_gateway, begin, witness, port):
    peer = begin(HoledPeer().start())
    gateway = make_gateway(YAML.format(line=peer.line(), port=port)).start()
    near = witness(port, "plant/#")
    values_around(near)
    eventually(lambda: gateway.device("meter-1")["holes"] == KNOWN, hoped="both holes are found")
    assert "meter-1 is not asked for holding 4, holding before 12" in gateway.command("status", "--socket", gateway.socket).stdout
    found = len(peer.asked)
    values_around(near, since=len(near.by_topic["plant/meter-1/a"]) + 5)
    assert not [read for read in peer.asked[found:] if read & MISSING], "what is known to be missing is not asked for"
    assert sum(all(word in line for word in SAID) for line in gateway.lines) == 1, gateway.log()
    eventually(lambda: notes(gateway)[0]["refused"] == {"holding": [[4, 1, 2]]}, hoped="the holes are on disk")

    gateway.kill()
    peer.asked.clear()
    gateway.start()
    again = witness(port, "plant/#")
    values_around(again, since=3)
    assert len(peer.asked) >= 6 and not peer.crossed(), "a restart forgets nothing"
    assert gateway.saw("remembers", "holes=2", "devices=1") and not gateway.saw(*SAID), gateway.log()
    assert gateway.device("meter-1")["holes"] == KNOWN

    wrong = gateway.command("forget", "meter-2", "--socket", gateway.socket)
    assert wrong.returncode == 1 and "did you mean `meter-1`?" in wrong.stderr, wrong
    done = gateway.command("forget", "meter-1", "--socket", gateway.socket)
    assert done.returncode == 0 and "2 holes" in done.stdout and KNOWN[0] in done.stdout, done
    eventually(lambda: [4] in peer.crossed() and {10, 11} <= set(sum(peer.crossed(), [])), hoped="asked for everything again")
    eventually(lambda: gateway.device("meter-1")["holes"] == KNOWN, hoped="and found again")
    assert gateway.saw(*SAID), "whoever asked is told"
    everyone = gateway.command("forget", "--all", "--socket", gateway.socket)
    assert everyone.returncode == 0 and "meter-1: 2 holes" in everyone.stdout, everyone


def test_a_device_that_was_away_is_asked_for_everything_and_the_file_forgets_too(make_gateway, begin, witness, port):
    peer = begin(HoledPeer().start())
    gateway = make_gateway(YAML.format(line=peer.line(), port=port)).start()
    near = witness(port, "plant/#")
    values_around(near)
    eventually(lambda: notes(gateway)[0].get("refused"), hoped="the hole is on disk")
    peer.stop()
    eventually(lambda: gateway.device("meter-1")["state"] == "offline", within=60, hoped="it is away")
    whole = TcpPeer([device(1, range(0, 130, 10))])
    whole.port = peer.port
    begin(whole.start())
    eventually(lambda: near.json("plant/meter-1/b")["value"] == 40, within=60, hoped="the new register arrives")
    eventually(lambda: gateway.device("meter-1")["holes"] == [], hoped="no hole is known")
    eventually(lambda: not any("refused" in note or "apart" in note for note in notes(gateway)), hoped="nor on disk")


def test_a_torn_file_is_set_aside_by_name_and_never_in_the_way(make_gateway, begin, witness, port):
    peer = begin(HoledPeer().start())
    gateway = make_gateway(YAML.format(line=peer.line(), port=port))
    torn = '{"version": 1, "devices": [{"line": "trunk", "un'
    (gateway.state / "learned.json").write_text(torn)
    gateway.start()
    near = witness(port, "plant/#")
    values_around(near)
    aside = gateway.state / "learned.json.set-aside-1"
    assert aside.read_text() == torn and gateway.saw("set aside", aside.name), gateway.log()
    eventually(lambda: notes(gateway)[0]["refused"] == {"holding": [[4, 1, 2]]}, hoped="a new file is begun")
    gateway.stop()
    assert notes(gateway)[0]["usual_us"] > 0, "how fast it answers is noted at the stop"
