"""What passes on a line, seen from outside: as text, in the log, and in a capture as tshark reads it."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import threading

import pytest
from gateway import BINARY
from modbus_peer import HOLDING, SerialPeer, TcpPeer, device
from pymodbus.framer import FramerType
from waiting import eventually

YAML = """
gateway: plant
lines:
  hall: {line}
devices:
  - name: meter
    line: hall
    unit_id: 1
    points:
      a: {{holding: 10, every: 100ms}}
      b: {{holding: 11, every: 100ms, write: true}}
      c: {{coil: 3, every: 100ms}}
{more}
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
"""
ABSENT = "  - {name: ghost, line: hall, unit_id: 9, points: {v: {input: 5, every: 100ms}}}"
CLOCK = r"\d\d:\d\d:\d\d\.\d{6}"
PEERS = {
    "serial": lambda devices: SerialPeer(devices, timeout="1s"),
    "tcp": TcpPeer,
    "rtu_over_tcp": lambda devices: TcpPeer(devices, framer=FramerType.RTU),
}


def meter():
    registers = [0] * 20
    registers[10:12] = [7, 256]
    return device(1, registers, coils=[False, False, False, True])


@pytest.fixture(params=PEERS)
def framing(request):
    return request.param


def running(make_gateway, begin, port, framing, more=""):
    peer = begin(PEERS[framing]([meter()]).start())
    gateway = make_gateway(YAML.format(line=peer.line(), port=port, more=more)).start()
    eventually(lambda: gateway.status()["lines"][0]["devices"][0]["replies"] > 4, hoped="the meter answers")
    return gateway


def trace(gateway, *arguments):
    done = gateway.command("trace", "hall", *arguments, "--socket", gateway.socket)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


class Following:
    """`trunkline trace …` that runs on: its output as it comes, text or bytes."""

    def __init__(self, gateway, *arguments, **popen):
        self.lines = []
        self.process = subprocess.Popen(
            [BINARY, "trace", *map(str, arguments), "--socket", gateway.socket], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **popen)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def stop(self):
        self.process.kill()
        self.process.wait(10)
        self.reader.join(5)


def tshark(capture, *fields, only=None):
    """What Wireshark finds in it, with the settings it comes with."""
    arguments = ["tshark", "-r", str(capture), "-T", "fields", "-E", "separator=|"]
    for field in fields:
        arguments += ["-e", field]
    if only:
        arguments += ["-Y", only]
    home = pathlib.Path(capture).parent
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False,
                          env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home)})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_each_depth_shows_its_own(make_gateway, begin, port, framing):
    gateway = running(make_gateway, begin, port, framing)
    messages = eventually(lambda: (m := trace(gateway, "--last", "40")) and len(m) == 40 and m, hoped="40 messages")
    # A busy machine may answer late now and then; that is shown as well.
    assert all(re.match(CLOCK + r" [→←×⤳] unit   1  read ", line) for line in messages), messages
    assert any(re.search(r"→ unit   1  read holding registers  10-11 \(2\)$", line) for line in messages), messages
    assert any(re.search(r"← unit   1  read holding registers  10-11 \(2\) +\d+\.\d ms  7 256$", line) for line in messages)
    assert any(re.search(r"← unit   1  read coils +3 +\d+\.\d ms  1$", line) for line in messages), messages
    frames = "\n".join(trace(gateway, "--last", "--depth", "frame"))
    question, answer = "01 03 00 0A 00 02", "01 03 04 00 07 01 00"
    if framing == "tcp":
        assert re.search(rf"→ .. .. 00 00 00 06 {question}$", frames, re.M), frames
        assert re.search(rf"← .. .. 00 00 00 07 {answer}$", frames, re.M), frames
    else:
        assert re.search(rf"→ {question} E4 09$", frames, re.M), frames
        assert re.search(rf"← {answer} 4A 62$", frames, re.M), frames
    pieces = [line.split(" ", 2)[1:] for line in trace(gateway, "--last", "--depth", "bytes")]
    came = " ".join(text for sign, text in pieces if sign == "←")
    assert answer in came, "whatever the pieces, together they are what came"


def test_what_has_passed_can_be_asked_for_after_the_fact(make_gateway, begin, port, framing, tmp_path):
    gateway = running(make_gateway, begin, port, framing, ABSENT)
    eventually(lambda: gateway.device("ghost")["state"] == "offline", within=60, hoped="the ghost is known to be one")
    assert gateway.saw("ghost", "offline", "trunkline trace hall --last 1m --unit 9"), "the log says how to see why"
    ghost = trace(gateway, "--last", "--unit", "9")
    assert any(re.search(r"→ unit   9  read input registers +5$", line) for line in ghost), ghost
    assert any(re.search(r"× unit   9  read input registers +5 +\d+\.\d ms  no reply$", line) for line in ghost), ghost
    assert len(trace(gateway, "--last", "3")) == 3
    recent = trace(gateway, "--last", "1s", "--json")
    whole = trace(gateway, "--last", "--json")
    assert 0 < len(recent) < len(whole)
    answers = [one for one in map(json.loads, whole) if one["kind"] == "answer" and one.get("registers")]
    one = answers[-1]
    assert one["line"] == "hall" and one["unit"] == 1 and one["name"] == "read holding registers"
    assert (one["address"], one["count"], one["registers"]) == (10, 2, [7, 256])
    assert any(one["after_us"] > 0 for one in answers), "behind a pseudo terminal some answers come at once"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", one["time"])
    assert ("transaction" in one) == (framing == "tcp")
    following = begin(Following(gateway, "hall", "--last", "5", "--follow"))
    eventually(lambda: len(following.lines) > 30, hoped="it goes on from there")
    times = [line.split(" ", 1)[0] for line in following.lines]
    assert times == sorted(times) or times[0] > times[-1], "in order, but for midnight"


def test_a_capture_is_modbus_to_wireshark_without_any_setting(make_gateway, begin, port, framing, tmp_path):
    gateway = running(make_gateway, begin, port, framing)
    capture = tmp_path / "hall.pcapng"
    trace(gateway, "--last", "--pcap", capture)
    protocol = "mbtcp" if framing == "tcp" else "mbrtu"
    names = ("frame.protocols", "modbus.func_code", "modbus.reference_num", "modbus.word_cnt", "modbus.regnum16",
             "modbus.regval_uint16", "frame.packet_flags_direction")
    read = [line.split("|") for line in tshark(capture, *names, only="modbus.func_code == 3")]
    assert all(protocol in packet[0] for packet in read), read
    questions = [packet for packet in read if int(packet[6], 16) == 2]
    answers = [packet for packet in read if int(packet[6], 16) == 1]
    assert len(questions) > 1 and len(answers) > 1
    assert all(packet[2:4] == ["10", "2"] for packet in questions), questions
    # Wireshark has found the question of each answer, for it names the registers, which an answer does not.
    assert all(packet[4:6] == ["10,11", "7,256"] for packet in answers), answers
    # Questions and answers of this function need no comment; a stalled machine may have made one late, and it was put aside.
    comments = tshark(capture, "frame.comment", only="frame.comment && modbus.func_code == 3")
    assert all(comment.startswith(("put aside", "damaged")) for comment in comments), comments
    assert tshark(capture, "frame.interface_name")[0] == "hall"
    warnings = "_ws.malformed || tcp.analysis.flags || _ws.expert.severity >= 6291456"
    assert tshark(capture, "frame.number", only=warnings) == []
    if framing == "tcp":
        numbers = [int(n) for n in tshark(capture, "mbtcp.trans_id", only="mbtcp && tcp.dstport == 502")]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "the real transaction numbers"
    else:
        checked = ["-o", "mbrtu.crc_verification:TRUE"]
        done = subprocess.run(["tshark", "-r", capture, *checked, "-T", "fields", "-e", "mbrtu.crc16.status"],
                              capture_output=True, text=True, timeout=60, check=True)
        assert set(done.stdout.split()) == {"1"} or set(done.stdout.split()) == {"Good"}, "the real checksums"


def test_a_capture_can_be_piped_into_wireshark_as_it_is_made(make_gateway, begin, port, framing):
    gateway = running(make_gateway, begin, port, framing)
    tracing = subprocess.Popen([BINARY, "trace", "hall", "--pcap", "-", "--socket", gateway.socket],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False)
    try:
        shark = subprocess.run(["tshark", "-i", "-", "-c", "6", "-T", "fields", "-e", "modbus.func_code"],
                               stdin=tracing.stdout, capture_output=True, text=True, timeout=60, check=False)
        assert len(shark.stdout.split()) == 6 and set(shark.stdout.split()) <= {"1", "3"}, shark.stdout + shark.stderr
        tracing.stdout.close()
        assert tracing.wait(20) == 0, "it ends quietly when nobody reads any more"
        assert tracing.stderr.read() == b""
    finally:
        tracing.kill()
        tracing.wait(10)
        tracing.stderr.close()


def test_damaged_frames_and_frames_put_aside_are_in_the_capture(make_gateway, begin, port, tmp_path):
    """Of three answers one has a wrong checksum, and before another a stranger speaks."""
    peer = SerialPeer([meter()], timeout="200ms")
    begin(peer.start())
    peer.cable.spoil = Spoiler()
    gateway = make_gateway(YAML.format(line=peer.line(), port=port, more="")).start()
    eventually(lambda: (w := gateway.status()["lines"][0]["wire"]) and w["garbled"] > 2 and w["stale_replies"] > 2 and
               w["replies"] > 2, within=60, hoped="damage, strangers and answers")
    assert gateway.saw("put aside", "trunkline trace hall --last 10s")
    text = "\n".join(trace(gateway, "--last"))
    assert re.search(r"! unit   1  read .* damaged \(checksum\): 01 ", text), text
    assert re.search(r"⤳ unit  33  read holding registers +put aside: 4660$", text, re.M), text
    capture = tmp_path / "hall.pcapng"
    trace(gateway, "--last", "--pcap", capture)
    damaged = tshark(capture, "mbrtu.unit_id", "frame.packet_flags_crc_error", only='frame.comment contains "damaged"')
    assert damaged and {line.split("|")[1] for line in damaged} <= {"1", "True"}, damaged
    aside = tshark(capture, "mbrtu.unit_id", "modbus.regval_uint16", only='frame.comment contains "put aside"')
    # On a busy machine the device's own answers come late now and then, and are put aside too.
    assert "33|4660" in aside and {line.split("|")[0] for line in aside} <= {"33", "1"}, aside


class Spoiler:
    """What the cable does to what the device says."""

    STRANGER = bytes.fromhex("210302123434f4")

    def __init__(self):
        self.answers = 0

    def __call__(self, data):
        self.answers += 1
        if self.answers % 3 == 0:
            return data[:-1] + bytes([data[-1] ^ 0xFF])
        return self.STRANGER + data if self.answers % 3 == 1 else data


def test_the_log_is_switched_on_and_off_in_the_running_gateway(make_gateway, begin, port, framing):
    gateway = running(make_gateway, begin, port, framing)
    message = ("line=hall", "← unit   1  read holding registers  10-11 (2)", "7 256")
    assert not gateway.saw(*message)
    on = gateway.command("trace", "hall", "--log", "message", "--for", "5m", "--socket", gateway.socket)
    assert on.returncode == 0 and on.stdout.startswith("hall: message for "), on.stdout + on.stderr
    eventually(lambda: gateway.saw(*message), hoped="the log shows what passes")
    listed = gateway.command("trace", "--socket", gateway.socket).stdout
    assert re.search(r"^hall +(RTU|Modbus TCP) +[\d,]+ events, .* message for (5 min|4 min)", listed, re.M), listed
    deeper = gateway.command("trace", "hall", "--log", "frame", "--json", "--socket", gateway.socket)
    assert json.loads(deeper.stdout)["log"]["depth"] == "frame"
    eventually(lambda: gateway.saw("line=hall", "01 03 04 00 07 01 00"), hoped="the frames")
    off = gateway.command("trace", "hall", "--log", "off", "--socket", gateway.socket)
    assert off.stdout == "hall: off\n"
    eventually(lambda: sum("no longer logged" in line for line in gateway.lines) == 2, hoped="the log says its end")
    since = len(gateway.lines)
    polled = gateway.device("meter")["replies"]
    eventually(lambda: gateway.device("meter")["replies"] > polled + 4, hoped="the line goes on")
    assert not any("line=hall" in line for line in gateway.lines[since:]), gateway.lines[since:]


def test_a_forgotten_log_ends_by_itself(make_gateway, begin, port):
    gateway = running(make_gateway, begin, port, "tcp")
    gateway.command("trace", "hall", "--log", "bytes", "--for", "1s", "--socket", gateway.socket)
    eventually(lambda: gateway.saw("no longer logged", "line=hall"), hoped="its time is over")
    lines = json.loads(gateway.command("trace", "--json", "--socket", gateway.socket).stdout)
    assert [(line["line"], line["log"]) for line in lines] == [("hall", None)]


def test_a_log_that_nobody_would_see_is_refused(make_gateway, begin, port):
    peer = begin(TcpPeer([meter()]).start())
    gateway = make_gateway(YAML.format(line=peer.line(), port=port, more=""))
    os.environ["TRUNKLINE_LOG"] = "warn"
    try:
        gateway.start()
    finally:
        del os.environ["TRUNKLINE_LOG"]
    done = gateway.command("trace", "hall", "--log", "message", "--socket", gateway.socket)
    assert done.returncode == 1 and "--log info" in done.stderr, done.stderr
    unknown = gateway.command("trace", "hill", "--last", "--socket", gateway.socket)
    assert unknown.returncode == 1 and "no line `hill`; there are: hall" in unknown.stderr, unknown.stderr


def test_a_capture_that_cannot_be_written_names_the_file(make_gateway, begin, port, tmp_path):
    gateway = running(make_gateway, begin, port, "tcp")
    there = tmp_path / "nowhere" / "hall.pcapng"
    done = gateway.command("trace", "hall", "--last", "--pcap", there, "--socket", gateway.socket)
    assert done.returncode == 1 and str(there) in done.stderr and "--pcap" in done.stderr, done.stderr


def test_tshark_is_here():
    assert shutil.which("tshark"), "install tshark, or let tests/run do it: captures are read by nothing else here"
