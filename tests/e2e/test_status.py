"""`trunkline status` as a person in front of a cabinet reads it, as a monitoring check calls it, and as a program parses it."""

import json
import os
import signal
import subprocess

import pytest

from gateway import BINARY, ROOT
from modbus_peer import TcpPeer, device
from terminal import Terminal
from waiting import eventually

YAML = """
gateway: plant
lines: {{hall: {line}}}
devices:
  - {{name: meter, line: hall, unit_id: 1, points: {{v: {{holding: 0, every: 200ms}}}}}}
  - {{name: silent, line: hall, unit_id: {unit}, points: {{v: {{holding: 0, every: 1s}}}}}}
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
upstreams:
  cloud: {{url: "mqtt://127.0.0.1:{cloud}", send: [{{filter: "#"}}]}}
"""


class Site:
    def __init__(self, make_gateway, begin, port, cable, unit=2):
        self.peer = begin(TcpPeer([device(1, [11]), device(2, [12])]).start())
        self.cable = cable
        self.gateway = make_gateway(YAML.format(line=self.peer.line(), unit=unit, port=port, cloud=cable.port)).start()
        self.gateway.connected()
        eventually(lambda: self.gateway.device("meter")["state"] == "online", hoped="the meter answers")

    def says(self):
        done = self.gateway.ask("status")
        news = done.stdout.split("\n\n")[1].splitlines()
        return done.returncode, news


@pytest.fixture
def site(make_gateway, begin, port, cable):
    return Site(make_gateway, begin, port, cable)


def test_all_is_well_then_the_cloud_is_away_then_the_port_is_gone(site):
    eventually(lambda: site.says() == (0, ["all is well"]), hoped="all is well")
    site.cable.cut()
    code, news = eventually(lambda: (said := site.says())[0] == 1 and said, hoped="it is degraded")
    assert len(news) == 1 and news[0].startswith("note: upstream cloud is away: "), news
    site.peer.stop()
    code, news = eventually(lambda: (said := site.says())[0] == 2 and said, hoped="somebody must come")
    assert news[0].startswith("ALARM: line hall (127.0.0.1:") and "is down: " in news[0], news
    assert news[1].startswith("note: upstream cloud is away: ") and len(news) == 2, "the worst first, and each once"
    site.gateway.stop()
    done = site.gateway.ask("status")
    assert done.returncode == 2 and done.stdout == "" and "is it running" in done.stderr, done


def test_a_silent_device_is_worth_knowing(make_gateway, begin, port, cable):
    site = Site(make_gateway, begin, port, cable, unit=9)
    code, news = eventually(lambda: (said := site.says())[0] == 1 and said, hoped="it is degraded")
    assert news == ["note: device silent is offline: timeout"], news


def test_messages_that_are_lost_are_an_alarm(make_gateway, begin, port, cable):
    peer = begin(TcpPeer([device(1, [11]), device(2, [12])]).start())
    cable.cut()
    text = YAML.format(line=peer.line(), unit=2, port=port, cloud=cable.port) + "spool: {keep: always, max_age: 1s}\n"
    gateway = make_gateway(text).start()
    told = eventually(lambda: (s := json.loads(gateway.ask("status", "--json").stdout))["spool"]["expired"] and s, within=90,
                      hoped="what waits has become too old")
    assert told["health"]["state"] == "down" and told["health"]["problems"][0]["kind"] == "loss", told["health"]
    done = gateway.ask("status")
    assert done.returncode == 2 and "ALARM: messages for upstreams are lost, since the start " in done.stdout, done
    assert "because they were too old" in done.stdout, done


def fits(value, rule, schema, at=""):
    """The part of JSON Schema that the schema uses."""
    if "$ref" in rule:
        rule = schema["$defs"][rule["$ref"].rpartition("/")[2]]
    if "enum" in rule:
        assert value in rule["enum"], f"{at}: {value!r}"
        return
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    assert names[type(value)] in kinds or type(value) is int and "number" in kinds, f"{at}: {value!r} is none of {kinds}"
    assert not ("minimum" in rule and value is not None) or value >= rule["minimum"], f"{at}: {value!r}"
    if isinstance(value, list):
        for n, item in enumerate(value):
            fits(item, rule["items"], schema, f"{at}/{n}")
    if isinstance(value, dict):
        assert set(rule.get("required", ())) <= set(value), f"{at}: {set(rule['required']) - set(value)} is missing"
        known, more = rule.get("properties", {}), rule.get("additionalProperties")
        for name, inner in value.items():
            assert name in known or more, f"{at}/{name} is not described"
            fits(inner, known.get(name, more), schema, f"{at}/{name}")


def test_what_programs_get_is_what_the_schema_says(site, witness, port):
    schema = json.loads((ROOT / "docs/status.schema.json").read_text())
    witness(port, "plant/#")
    eventually(lambda: site.gateway.status()["broker"]["clients"], hoped="a client is there")
    for change in (lambda: None, site.cable.cut, site.peer.stop):
        change()
        fits(json.loads(site.gateway.ask("status", "--json").stdout), schema, schema)
    eventually(lambda: site.gateway.status()["health"]["state"] == "down", hoped="the port is gone")
    told = site.gateway.status()
    fits(told, schema, schema)
    assert [news["kind"] for news in told["health"]["problems"]] == ["line"], told["health"]
    with pytest.raises(AssertionError):
        fits({**told, "lines": [{**told["lines"][0], "up": "yes"}]}, schema, schema)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_it_fits_the_terminal(site, begin, columns):
    terminal = begin(Terminal(columns, 50, "status", "--socket", site.gateway.socket))
    assert terminal.ended() == 0
    text = terminal.text()
    assert "all is well" in text and "meter" in text, text
    assert max(len(line) for line in text.splitlines()) <= columns, text
    assert ("too narrow" in text) == (columns < 200), text


def test_the_watch_sees_a_restart_and_leaves_the_terminal_as_it_was(site, begin):
    terminal = begin(Terminal(100, 30, "status", "--watch", "--socket", site.gateway.socket))
    eventually(lambda: "all is well" in terminal.text(), hoped="it shows something")
    site.gateway.kill()
    eventually(lambda: "the gateway does not answer" in terminal.text(), hoped="it says that the gateway has gone")
    seen = len(terminal.output)
    site.gateway.start()
    eventually(lambda: b"trunkline" in terminal.output[seen:] and b"LINE" in terminal.output[seen:], hoped="it goes on")
    terminal.type(b"\x03")
    assert terminal.ended() == -signal.SIGINT
    assert terminal.is_as_before()
    # Nothing that would have to be switched back: another screen, a hidden cursor.
    assert "\x1b[?" not in terminal.text()


def test_a_daemon_that_hangs_is_said_to(site):
    site.gateway.process.send_signal(signal.SIGSTOP)
    try:
        done = site.gateway.ask("status")
    finally:
        site.gateway.process.send_signal(signal.SIGCONT)
    assert done.returncode == 2 and "does not answer within 10 s" in done.stderr, done


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_may_not_ask_is_told_the_group_and_never_that_of_root(site):
    os.chmod(site.gateway.run_dir, 0o755)

    def nobody():
        # By its handle, because the folder it was built in may be closed to him.
        with open(BINARY, "rb") as binary:
            return subprocess.run(
                ["trunkline", "status", "--socket", str(site.gateway.socket)], executable=f"/proc/self/fd/{binary.fileno()}",
                pass_fds=[binary.fileno()], user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, text=True,
                check=False)

    os.chown(site.gateway.socket, 0, 20)
    done = nobody()
    assert done.returncode == 2 and "sudo usermod -aG dialout $USER" in done.stderr, done
    os.chown(site.gateway.socket, 0, 0)
    done = nobody()
    assert done.returncode == 2 and "be root (sudo)" in done.stderr and "usermod" not in done.stderr, done


def test_a_stop_is_told_without_errors(site):
    assert site.gateway.stop() == 0
    assert not site.gateway.saw(" ERROR ") and site.gateway.saw("stopped"), site.gateway.log()
