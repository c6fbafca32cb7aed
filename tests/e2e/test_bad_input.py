"""What a person gets wrong, and what the program says then: where, which value, which limit, what to do."""

import os
import re
import socket
import sqlite3

import pytest

from waiting import eventually

GOOD = """gateway: plant
lines:
  hall: {tcp: 127.0.0.1:1502}
devices:
  - name: meter
    line: hall
    unit_id: 1
    points:
      voltage: {input: 0, type: f32, every: 1s}
broker:
  listen: [{tcp: 127.0.0.1:18830}]
"""

# name of the case: (what is replaced, by what, line of the problem, words that must be said)
CASES = {
    "a YAML error": ("  hall: {tcp: 127.0.0.1:1502}", "  hall: {tcp: 127.0.0.1:1502", None, []),
    "a tab": ("    line: hall", "\tline: hall", 6, ["tab"]),
    "an unknown key": ("line: hall", "lien: hall", 6, ["lien", "line"]),
    "an unknown key in a point": ("type: f32", "typ: f32", 9, ["typ", "type"]),
    "a key twice": ("    line: hall", "    line: hall\n    line: hall", 7, ["line"]),
    "a line that does not exist": ("line: hall", "line: hal", 6, ["hal", "hall"]),
    "a profile that does not exist": ("    unit_id: 1\n", "    unit_id: 1\n    profile: eastron/sdm12\n", 8,
                                      ["eastron/sdm12", "eastron/sdm120"]),
    "the same unit id twice": ("broker:", "  - {name: other, line: hall, unit_id: 1, points: {a: {input: 1}}}\nbroker:",
                               10, ["unit", "1", "meter"]),
    "the same device name twice": ("broker:", "  - {name: meter, line: hall, unit_id: 2, points: {a: {input: 1}}}\nbroker:",
                                   10, ["meter"]),
    "the same point name twice": ("broker:", "      voltage: {input: 4, type: f32}\nbroker:", 10, ["voltage"]),
    "an address outside the table": ("input: 0", "input: 65535", 9, ["65535"]),
    "an address that is none": ("input: 0", "input: 70000", 9, ["70000", "65535"]),
    "a unit id that is none": ("unit_id: 1", "unit_id: 300", 7, ["300"]),
    "unit id zero": ("unit_id: 1", "unit_id: 0", 7, ["broadcast"]),
    "a period of zero": ("every: 1s", "every: 0s", 9, ["0s"]),
    "a duration without unit": ("every: 1s", "every: 5", 9, ["5s"]),
    "an unknown type": ("type: f32", "type: float", 9, ["float", "f32"]),
    "two addresses": ("input: 0", "input: 0, holding: 0", 9, ["input", "holding"]),
    "no address": ("input: 0, ", "", 9, ["voltage"]),
    "a name with a wildcard": ("voltage:", '"volt/+":', 9, ["volt/+"]),
    "a secret in the file": ("broker:", "upstreams:\n  c: {url: mqtt://h, password: hunter2}\nbroker:", 11, ["file", "env"]),
}


@pytest.mark.parametrize("case", CASES)
def test_check_says_where_what_and_what_to_do(case, make_gateway):
    old, new, line, words = CASES[case]
    assert old in GOOD
    gateway = make_gateway(GOOD.replace(old, new, 1))
    done = gateway.command("check", "-c", gateway.config)
    said = done.stdout + done.stderr
    assert done.returncode == 78, said
    assert "panicked" not in said
    assert "gateway.yaml:" in said, said
    if line:
        assert re.search(rf"gateway\.yaml:{line}:\d+", said), said
    for word in words:
        assert word.lower() in said.lower(), f"no `{word}` in:\n{said}"
    assert "hunter2" not in said


def test_check_accepts_what_is_right_and_says_what_would_run(make_gateway):
    gateway = make_gateway(GOOD)
    done = gateway.command("check", "-c", gateway.config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 device" in done.stdout + done.stderr


def test_check_tells_every_problem_at_once(make_gateway):
    text = GOOD.replace("line: hall", "line: hal").replace("unit_id: 1", "unit_id: 300").replace("every: 1s", "every: 0s")
    gateway = make_gateway(text)
    done = gateway.command("check", "-c", gateway.config)
    said = done.stdout + done.stderr
    for line in (6, 7, 9):
        assert re.search(rf"gateway\.yaml:{line}:\d+", said), said


def test_a_file_that_is_not_there_is_named(make_gateway):
    gateway = make_gateway(GOOD)
    done = gateway.command("check", "-c", gateway.folder / "nope.yaml")
    assert done.returncode == 78 and "nope.yaml" in done.stdout + done.stderr


def test_run_refuses_what_check_refuses(make_gateway):
    gateway = make_gateway(GOOD.replace("every: 1s", "every: 0s"))
    gateway.start(ready=False)
    assert gateway.exit_code() == 78
    assert "gateway.yaml:9:" in gateway.log()


def test_an_unknown_command_is_a_usage_error(make_gateway):
    gateway = make_gateway(GOOD)
    assert gateway.command("rnu").returncode == 64


def test_the_shipped_example_passes(make_gateway):
    from gateway import ROOT

    gateway = make_gateway(GOOD)
    done = gateway.command("check", "-c", ROOT / "config/gateway.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broker_port_that_is_taken_is_named(make_gateway):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        gateway = make_gateway(GOOD.replace("18830", str(port)))
        gateway.start(ready=False)
        assert gateway.exit_code() == 1, gateway.log()
        assert str(port) in gateway.log() and "panicked" not in gateway.log()


UPSTREAM = "upstreams:\n  cloud: {url: mqtt://127.0.0.1:1, send: [{filter: \"#\"}]}\nspool: {keep: always}\n"


def test_a_database_from_a_newer_version_is_left_untouched(make_gateway, port):
    gateway = make_gateway(GOOD.replace("18830", str(port)) + UPSTREAM)
    gateway.start()
    database = gateway.state / "spool.db"
    eventually(database.exists, hoped="the spool's database exists")
    gateway.stop()
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()
    before = database.read_bytes()
    gateway.start(ready=False)
    assert gateway.exit_code() not in (0, None), gateway.log()
    assert "newer" in gateway.log() and "spool.db" in gateway.log(), gateway.log()
    assert database.read_bytes() == before


def test_a_torn_database_is_set_aside_and_the_gateway_goes_on(make_gateway, port):
    gateway = make_gateway(GOOD.replace("18830", str(port)) + UPSTREAM)
    gateway.state.mkdir(exist_ok=True)
    (gateway.state / "spool.db").write_bytes(os.urandom(64 * 1024))
    gateway.start()
    assert gateway.saw("spool.db"), gateway.log()
    kept = [p for p in gateway.state.iterdir() if p.name.startswith("spool.db") and p.stat().st_size == 64 * 1024]
    assert kept, list(gateway.state.iterdir())
