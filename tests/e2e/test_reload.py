"""Another configuration for a gateway that goes on: only what changed is touched, a file that is wrong changes nothing, and
what is on trial goes away by itself."""

import datetime
import json
import re
import socket
import ssl
import time

import paho.mqtt.client as mqtt
import pytest

from certificates import Authority
from cloud import client
from modbus_peer import Counting, TcpPeer, device
from waiting import eventually, free_port


def config(lines, devices, port, more=""):
    """A whole file: `lines` and `devices` are YAML in flow style."""
    lines = "".join(f"  {name}: {line}\n" for name, line in lines.items())
    devices = "".join(f"  - {one}\n" for one in devices)
    return f"gateway: plant\nlines:\n{lines}devices:\n{devices}broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]{more}\n"


def meter(name, line, unit, points):
    return f"{{name: {name}, line: {line}, unit_id: {unit}, report: {{when: poll}}, points: {{{points}}}}}"


class Site:
    """A gateway with a fast line, which must not notice anything, and a slow one, which is changed."""

    def __init__(self, make_gateway, begin, port, more="}", upstreams=""):
        self.counting = Counting()
        self.fast = begin(TcpPeer([device(1, action=self.counting.action())]).start())
        self.slow = begin(TcpPeer([device(n, [10 * n, 10 * n + 1]) for n in (1, 2, 3)]).start())
        self.port, self.more, self.upstreams = port, more, upstreams
        self.lines = {"fast": self.fast.line(), "slow": self.slow.line()}
        self.devices = {
            "f": meter("f", "fast", 1, "n: {holding: 0, every: 100ms}"),
            "a": meter("a", "slow", 1, "v: {holding: 0, every: 1s}"),
            "b": meter("b", "slow", 2, "v: {holding: 0, every: 500ms}"),
        }
        self.gateway = make_gateway(self.text()).start()

    def text(self):
        return config(self.lines, self.devices.values(), self.port, self.more) + self.upstreams

    def write(self):
        self.gateway.config.write_text(self.text())

    def reload(self):
        self.write()
        return self.gateway.ask("reload")


@pytest.fixture
def site(make_gateway, begin, port):
    return Site(make_gateway, begin, port)


def config_told(near):
    return near.json("plant/$config")


def seconds(payload):
    return datetime.datetime.fromisoformat(json.loads(payload)["time"].replace("Z", "+00:00")).timestamp()


def missed_nothing(seen):
    """The fast line was read every 100 ms, and each reading arrived once and in order."""
    # What is looked at may all have happened between two turns.
    eventually(lambda: len(seen) > 5, hoped="turns have passed")
    payloads = list(seen)
    values = [json.loads(p)["value"] for p in payloads]
    assert values == list(range(values[0], values[0] + len(values))), values
    times = [seconds(p) for p in payloads]
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert max(gaps) < 0.2, f"a turn was missed: {gaps}"


def test_one_period_changes_and_another_line_misses_nothing(site, witness):
    near = witness(site.port, "plant/#")
    cuts = []
    near.client.on_disconnect = lambda *_: cuts.append(1)
    seen = near.by_topic["plant/f/n"]
    eventually(lambda: len(seen) >= 10, hoped="the fast line is read")
    missed = site.gateway.status()["lines"][0]["missed_turns"]
    opens = site.gateway.status()["lines"][1]["wire"]["opens"]
    site.devices["a"] = meter("a", "slow", 1, "v: {holding: 0, every: 100ms}")
    site.write()
    site.gateway.hang_up()
    slow = near.by_topic["plant/a/v"]
    eventually(lambda: site.gateway.saw("configuration reloaded"), hoped="the reload is logged")
    at = len(seen)
    eventually(lambda: len(seen) >= at + 20 and len(slow) >= 15, hoped="both lines go on")
    missed_nothing(seen)
    status = site.gateway.status()
    assert status["lines"][0]["missed_turns"] == missed
    assert status["lines"][1]["wire"]["opens"] == opens, "the port of the changed line stays open too"
    assert not cuts and site.gateway.saw("~ point a/v: every 1s → 100ms")
    assert [d["name"] for d in status["lines"][1]["devices"]] == ["a", "b"]
    # The account of the point goes on, and adds up.
    books = json.loads(site.gateway.ask("ledger", "--json").stdout)
    assert books["total"]["polled"] == sum(p["polled"] for p in books["points"])


def test_a_broken_file_changes_nothing_and_everybody_is_told(site, witness):
    near = witness(site.port, "plant/#")
    eventually(lambda: config_told(near)["outcome"] == "started", hoped="it is told what runs")
    good = site.text()
    site.gateway.config.write_text(good.replace("every: 1s", "every: 0s").replace("line: slow, unit_id: 2", "line: sloe, unit_id: 2"))
    done = site.gateway.ask("reload")
    assert done.returncode == 78, done.stderr
    for place in (r"gateway\.yaml:7:\d+", r"gateway\.yaml:8:\d+"):
        assert re.search(place, done.stderr), done.stderr
    assert "nothing was changed" in done.stderr
    told = eventually(lambda: (t := config_told(near))["outcome"] == "refused" and t, hoped="it is told on $config")
    assert len(told["problems"]) >= 2 and any("gateway.yaml:7:" in p for p in told["problems"])
    eventually(lambda: near.last("plant/$state/config") == b"refused", hoped="and in a word among the states")
    assert near.last("plant/$state") == b"online", "which is about something else"
    assert site.gateway.saw("not reloaded", "gateway.yaml:7:")
    assert site.gateway.status()["config"]["outcome"] == "refused"
    status = site.gateway.ask("status")
    assert status.returncode == 1 and "was refused, the one before runs" in status.stdout, status.stdout
    at = len(near.by_topic["plant/b/v"])
    eventually(lambda: len(near.by_topic["plant/b/v"]) > at + 2, hoped="what ran runs on")
    site.write()
    assert site.gateway.ask("reload").stdout == "nothing has changed\n"
    eventually(lambda: config_told(near)["outcome"] == "reloaded", hoped="that it is mended is told too")
    eventually(lambda: near.last("plant/$state/config") == b"reloaded", hoped="in a word as well")
    assert site.gateway.ask("status").returncode == 0
    assert not near.by_topic["plant/$state"], "what is retained is not said again"


def test_a_broken_file_at_a_hang_up_is_told_in_the_log_and_on_config(site, witness):
    near = witness(site.port, "plant/#")
    site.gateway.config.write_text(site.text().replace("every: 1s", "every: 0s"))
    site.gateway.hang_up()
    eventually(lambda: config_told(near)["outcome"] == "refused", hoped="it is told")
    assert site.gateway.saw("not reloaded", "gateway.yaml:7:")
    assert runs(site, "1s")


class Manager:
    """What systemd is to a unit of Type=notify: hears what it says of itself."""

    def __init__(self, folder):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = str(folder / "notify")
        self.socket.bind(self.path)
        self.socket.settimeout(20)

    def hear(self, word):
        """The next message with this field, as a dictionary; what it says of its watchdog is passed over."""
        while True:
            fields = dict(line.split("=", 1) for line in self.socket.recv(8192).decode().splitlines())
            if "WATCHDOG" not in fields:
                assert word in fields, fields
                return fields

    def stop(self):
        self.socket.close()


def test_the_service_manager_is_told_of_each_reload_from_its_beginning_to_its_end(make_gateway, begin, port):
    class Notified(Site):
        def __init__(self, make_gateway, begin, port):
            def make(text):
                gateway = make_gateway(text)
                self.manager = begin(Manager(gateway.run_dir))
                gateway.variables = {"NOTIFY_SOCKET": self.manager.path}
                return gateway

            super().__init__(make, begin, port)

    site = Notified(make_gateway, begin, port)
    manager = site.manager
    assert "3 devices" in manager.hear("READY")["STATUS"]
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    del site.devices["b"]
    site.write()
    site.gateway.hang_up()
    began = int(manager.hear("RELOADING")["MONOTONIC_USEC"]) / 1e6
    assert before <= began <= time.clock_gettime(time.CLOCK_MONOTONIC)
    assert "2 devices" in manager.hear("READY")["STATUS"]
    site.gateway.config.write_text("gateway: [")
    assert site.gateway.ask("reload").returncode == 78
    manager.hear("RELOADING")
    assert "2 devices" in manager.hear("READY")["STATUS"], "what ran runs on"
    assert site.gateway.ask("revert").returncode == 1
    site.gateway.stop()
    manager.hear("STOPPING")


def test_a_file_that_vanished_and_a_folder_in_its_place_are_told(site):
    site.gateway.config.unlink()
    done = site.gateway.ask("reload")
    assert done.returncode == 78 and "gateway.yaml" in done.stderr and "cannot be read" in done.stderr, done.stderr
    assert "put it there" in done.stderr, done.stderr
    site.gateway.config.mkdir()
    done = site.gateway.ask("reload")
    assert done.returncode == 78 and "a folder lies there" in done.stderr, done.stderr
    site.gateway.config.rmdir()
    for text, said in ((b"", "the file is empty"), (b"\xff\xfe", "UTF-8")):
        site.gateway.config.write_bytes(text)
        done = site.gateway.ask("reload")
        assert done.returncode == 78 and said in done.stderr, done.stderr
    assert site.gateway.device("a")["state"] == "online"


def test_a_file_that_runs_and_lies_in_its_place_is_no_trial(site):
    done = site.gateway.ask("apply", site.gateway.config, "--confirm", "10m")
    assert done.returncode == 0 and "there is nothing to confirm" in done.stdout, done
    assert site.gateway.ask("confirm").returncode == 1
    assert site.gateway.status()["config"]["outcome"] == "started" and site.gateway.ask("reload").returncode == 0


def test_what_needs_a_restart_is_refused_before_anything_is_touched(site):
    site.devices["a"] = meter("a", "slow", 1, "v: {holding: 0, every: 200ms}")
    site.gateway.config.write_text(site.text().replace("gateway: plant", "gateway: other"))
    done = site.gateway.ask("reload")
    assert done.returncode == 1 and "needs a restart" in done.stderr and "plant → other" in done.stderr, done.stderr
    site.write()
    assert "every 1s → 200ms" in site.gateway.ask("reload").stdout, "nothing of it had been applied"


def test_a_removed_device_says_goodbye_and_leaves_nothing_behind(site, witness):
    near = witness(site.port, "plant/#")
    eventually(lambda: near.last("plant/b/v") and near.last("plant/b/$state"), hoped="it is there")
    del site.devices["b"]
    done = site.reload()
    assert done.returncode == 0 and "- device b" in done.stdout, done.stderr
    states = near.by_topic["plant/b/$state"]
    eventually(lambda: states and states[-1] == b"", hoped="its state is cleared")
    assert b'"removed"' in states[-2]
    eventually(lambda: near.by_topic["plant/b/v"][-1] == b"", hoped="its value is cleared")
    late = witness(site.port, "plant/#")
    eventually(lambda: "plant/a/v" in late.retained, hoped="retained values come")
    assert not [t for t in late.retained if t.startswith("plant/b/")], late.retained


def test_devices_and_lines_come_move_and_go(site, begin, witness):
    near = witness(site.port, "plant/#")
    cuts = []
    near.client.on_disconnect = lambda *_: cuts.append(1)
    eventually(lambda: near.by_topic["plant/f/n"], hoped="the fast line is read")
    missed = site.gateway.status()["lines"][0]["missed_turns"]
    third = begin(TcpPeer([device(2, [77])]).start())
    site.lines["third"] = third.line()
    site.devices["c"] = meter("c", "slow", 3, "v: {holding: 1, every: 200ms}")
    site.devices["b"] = meter("b", "third", 2, "v: {holding: 0, every: 200ms}")
    done = site.reload()
    assert done.returncode == 0, done.stderr
    for word in ("+ line third", "+ device c", "~ device b: line slow → third"):
        assert word in done.stdout, done.stdout
    eventually(lambda: near.json("plant/c/v")["value"] == 31, hoped="the new device is read")
    eventually(lambda: near.json("plant/b/v")["value"] == 77, hoped="the moved device is read where it is now")
    assert [line["name"] for line in site.gateway.status()["lines"]] == ["fast", "slow", "third"]
    # Everything of the slow line goes to another endpoint: this line is made anew.
    fourth = begin(TcpPeer([device(n, [100 + n, 200 + n]) for n in (1, 3)]).start())
    site.lines["slow"] = fourth.line()
    del site.lines["third"], site.devices["b"]
    done = site.reload()
    assert "~ line slow" in done.stdout and "restarts this line" in done.stdout and "- line third" in done.stdout
    eventually(lambda: near.json("plant/a/v")["value"] == 101, hoped="the line is polled at its new place")
    assert near.json("plant/c/v")["value"] in (31, 203)
    eventually(lambda: near.json("plant/c/v")["value"] == 203, hoped="all of it")
    assert [line["name"] for line in site.gateway.status()["lines"]] == ["fast", "slow"]
    assert site.gateway.status()["panics"] == {}
    # All the while the other line and the local client did not notice.
    missed_nothing(near.by_topic["plant/f/n"])
    assert site.gateway.status()["lines"][0]["missed_turns"] == missed and not cuts


def test_commands_are_judged_by_what_is_configured_now(site, witness):
    near = witness(site.port, "plant/#")
    eventually(lambda: near.last("plant/a/v"), hoped="it is read")
    site.devices["a"] = meter("a", "slow", 1, "v: {holding: 0, every: 1s, write: {max: 50}}")
    assert site.reload().returncode == 0
    answers = near.by_topic["plant/a/v/set/result"]
    near.client.publish("plant/a/v/set", "40", 1)
    eventually(lambda: answers and b"written" in answers[-1], hoped="the write is done")
    site.devices["a"] = meter("a", "slow", 1, "v: {holding: 0, every: 1s, write: {max: 30}}")
    assert site.reload().returncode == 0
    near.client.publish("plant/a/v/set", "40", 1)
    eventually(lambda: b"refused" in answers[-1] and b"30" in answers[-1], hoped="the new limit holds")


def test_lines_and_upstreams_in_another_order_are_still_who_they_are(make_gateway, begin, port, witness):
    def upstreams(*names):
        return "upstreams:\n" + "".join(f"  {n}: {{url: 'mqtt://127.0.0.1:9', send: [{{filter: {n}/#}}]}}\n" for n in names)

    # Both lines have a unit 1, so that a command on the wrong one would be taken there.
    site = Site(make_gateway, begin, port, upstreams=upstreams("one", "two"))
    site.devices["a"] = meter("a", "slow", 1, "v: {holding: 0, every: 200ms, write: {max: 50}}")
    assert site.reload().returncode == 0
    near = witness(port, "plant/#")
    eventually(lambda: near.json("plant/a/v")["value"] == 10, hoped="it is read")
    site.lines = dict(reversed(site.lines.items()))
    site.upstreams = upstreams("two", "one")
    done = site.reload()
    assert done.returncode == 0, done.stderr
    status = site.gateway.status()
    assert [line["name"] for line in status["lines"]] == ["slow", "fast"]
    assert [upstream["name"] for upstream in status["upstreams"]] == ["two", "one"]
    answers = near.by_topic["plant/a/v/set/result"]
    near.client.publish("plant/a/v/set", "40", 1)
    eventually(lambda: answers and b"written" in answers[-1], hoped="the write is done")
    eventually(lambda: near.json("plant/a/v")["value"] == 40, hoped="on its own line")


UPSTREAM = """upstreams:
  cloud:
    url: mqtt://127.0.0.1:{port}
    {more}
    send: [{{filter: "{filter}", strip: plant/, prefix: {prefix}/}}]
"""


def test_an_upstream_changes_and_what_waits_for_it_is_delivered(make_gateway, begin, port, cable, cloud, witness):
    def upstreams(**other):
        values = {"port": cable.port, "more": "in_flight: 50", "filter": "plant/f/#", "prefix": "one"}
        return UPSTREAM.format(**{**values, **other})

    site = Site(make_gateway, begin, port, upstreams=upstreams())
    far = witness(cloud.port, "#")
    eventually(lambda: far.by_topic["one/f/n"], hoped="values arrive")
    cable.cut_between_packets()
    eventually(lambda: site.gateway.status()["spool"]["on_disk"] >= 15, hoped="values wait on disk")
    held = site.counting.reads
    # Another prefix, and a filter that does not even match what waits.
    site.upstreams = upstreams(prefix="two", filter="plant/+/n", more="in_flight: 20")
    done = site.reload()
    assert done.returncode == 0 and "~ upstream cloud: in_flight 50 → 20, send" in done.stdout, done.stderr
    assert "what waits for it is kept" in done.stdout
    cable.mend()
    eventually(lambda: far.json("two/f/n")["value"] and far.json("two/f/n")["value"] > held, hoped="the backlog and more arrive")
    values = [json.loads(p)["value"] for t in ("one/f/n", "two/f/n") for p in far.by_topic[t]]
    assert sorted(set(values)) == list(range(min(values), max(values) + 1)), "nothing is missing"
    assert [v for v in values if v in set(values)] == sorted(values), "in order"
    ledger = eventually(lambda: (l := site.gateway.status()["spool"]["ledger"]["cloud"]) and l["stored"] < 5 and l, hoped="drained")
    assert ledger["refused"] == ledger["evicted"] == ledger["damaged"] == 0, ledger


def test_a_new_upstream_hears_how_things_stand(make_gateway, begin, port, cloud, witness):
    site = Site(make_gateway, begin, port)
    # Values that never change are told once only.
    site.devices = {"a": site.devices["a"].replace("when: poll", "when: change")}
    del site.lines["fast"]
    assert site.reload().returncode == 0
    near = witness(port, "plant/#")
    eventually(lambda: near.json("plant/a/v")["value"] == 10, hoped="the value is known")
    far = witness(cloud.port, "#")
    site.upstreams = UPSTREAM.format(port=cloud.port, more="in_flight: 50", filter="plant/#", prefix="x")
    done = site.reload()
    assert done.returncode == 0 and "+ upstream cloud" in done.stdout, done.stderr
    eventually(lambda: far.json("x/a/v")["value"] == 10, hoped="the value arrives though it does not change")
    eventually(lambda: b"online" in (far.last("x/a/$state") or b""), hoped="the device's state arrives")
    eventually(lambda: far.last("x/$state") == b"online", hoped="the gateway's too")
    site.upstreams = ""
    assert "- upstream cloud" in site.reload().stdout
    assert site.gateway.status()["upstreams"] == []


def rejected(port, user):
    """The reason code of a login, 0 when it succeeds."""
    answer = []
    one = client(f"login-{user[0]}", mqtt.MQTTv5)
    one.username_pw_set(*user)
    one.on_connect = lambda _c, _d, _f, code, _p: answer.append(code.value)
    one.connect("127.0.0.1", port, 30)
    one.loop_start()
    eventually(lambda: answer, hoped="the broker answers the login")
    one.disconnect()
    one.loop_stop()
    return answer[0]


def passwd(gateway, *arguments, **more):
    done = gateway.command("passwd", *arguments, **more)
    assert done.returncode == 0, done.stderr
    return done


def test_users_come_and_go_with_a_reload(make_gateway, begin, port, tmp_path):
    users = tmp_path / "gateway" / "users.yaml"
    users.parent.mkdir(parents=True)
    users.write_text("")
    site = Site(make_gateway, begin, port, more=f", anonymous: never, users: {users}}}")
    passwd(site.gateway, "-f", users, "ann", stdin="one\n")
    assert rejected(port, ("ann", "one")) != 0
    done = site.gateway.ask("reload")
    assert done.stdout == "+ user ann\n", done
    assert rejected(port, ("ann", "one")) == 0
    users.write_text("ann: plain text\n")
    done = site.gateway.ask("reload")
    assert done.returncode == 78 and "ann" in done.stderr and "plain text" not in done.stderr, done.stderr
    assert rejected(port, ("ann", "one")) == 0
    users.write_text("")
    assert site.gateway.ask("reload").stdout == "- user ann\n"
    assert rejected(port, ("ann", "one")) != 0


def test_another_password_ends_the_connections_made_with_the_old_one_and_no_others(make_gateway, begin, port, tmp_path):
    users = tmp_path / "gateway" / "users.yaml"
    users.parent.mkdir(parents=True)
    users.write_text("")
    site = Site(make_gateway, begin, port, more=f", anonymous: loopback, users: {users}}}")
    for name in ("ann", "bob"):
        passwd(site.gateway, "-f", users, name, stdin="old\n")
    assert site.gateway.ask("reload").returncode == 0
    codes, lives = {}, {}
    for name in ("ann", "bob"):
        one = client(f"lives-{name}", mqtt.MQTTv5)
        one.username_pw_set(name, "old")
        one.on_disconnect = lambda _c, _d, _f, code, _p, name=name: codes.setdefault(name, code.value)
        one.connect("127.0.0.1", port, 30)
        one.loop_start()
        one.stop = lambda one=one: (one.disconnect(), one.loop_stop())
        lives[name] = begin(one)
        eventually(one.is_connected, hoped=f"{name} is in")
    passwd(site.gateway, "-f", users, "ann", stdin="new\n")
    assert site.gateway.ask("reload").stdout == "~ user ann: password\n"
    eventually(lambda: "ann" in codes, hoped="whoever came by the old password is sent away")
    assert codes == {"ann": 0x87} and lives["bob"].is_connected()
    assert rejected(port, ("ann", "new")) == 0 and rejected(port, ("bob", "old")) == 0
    lives["ann"].loop_stop()
    assert rejected(port, ("ann", "old")) != 0


def shown(port, authority):
    """The serial number of the certificate that the listener shows, and its connection."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.check_hostname = False
    one = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10))
    return one.getpeercert()["serialNumber"], one


def test_renewed_certificates_are_taken_and_who_is_connected_stays(make_gateway, begin, port, tmp_path, witness):
    pki = Authority(tmp_path / "pki")
    cert, key = pki.signed("server", "/CN=gateway", "IP:127.0.0.1")
    secret = free_port()
    site = Site(make_gateway, begin, port)
    tls = f"{{tls: 127.0.0.1:{secret}, cert: {cert}, key: {key}}}"
    text = site.text().replace(f"{{tcp: 127.0.0.1:{port}}}", f"{{tcp: 127.0.0.1:{port}}}, {tls}")
    site.gateway.config.write_text(text)
    assert site.gateway.ask("reload").stdout == f"+ listener mqtts://127.0.0.1:{secret}\n"
    before, stays = shown(secret, pki)
    stays.sendall(b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04stay")
    assert stays.recv(4) == b"\x20\x02\0\0"
    assert shown(secret, pki)[0] == before
    pki.signed("server", "/CN=gateway", "IP:127.0.0.1")
    assert shown(secret, pki)[0] == before, "not before it is asked for"
    done = site.gateway.ask("reload")
    assert "server.pem: another certificate" in done.stdout, done
    assert shown(secret, pki)[0] != before
    stays.sendall(b"\xc0\0")
    assert stays.recv(2) == b"\xd0\0", "it was not disturbed"
    stays.close()
    # Half a renewal: the certificate of another key.
    good = cert.read_bytes()
    cert.write_bytes(pki.certificate.read_bytes())
    done = site.gateway.ask("reload")
    assert done.returncode != 0 and "server.pem" in done.stderr, done
    cert.write_bytes(good)
    assert site.gateway.ask("reload").returncode == 0
    shown(secret, pki)[1].close()


def test_new_limits_of_a_listener_send_nobody_away(site, witness):
    near = witness(site.port, "plant/#")
    cut = []
    near.client.on_disconnect = lambda *_: cut.append(1)
    plain = f"{{tcp: 127.0.0.1:{site.port}}}"
    narrow = f"{{tcp: 127.0.0.1:{site.port}, limits: {{clients: 1}}}}"
    site.gateway.config.write_text(site.text().replace(plain, narrow))
    done = site.gateway.ask("reload")
    assert done.stdout.startswith(f"~ listener mqtt://127.0.0.1:{site.port}: limits: clients 200 → 1 "), done
    assert rejected(site.port, ("one", "too many")) == 0x97
    at = len(near.by_topic["plant/f/n"])
    eventually(lambda: len(near.by_topic["plant/f/n"]) > at + 5, hoped="who is in hears on")
    assert not cut


def test_a_listener_moves_and_a_port_that_is_taken_changes_nothing(site, witness):
    near = witness(site.port, "plant/#")
    second = free_port()
    site.more = ", limits: {clients: 150}}"
    good = site.text()
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        site.gateway.config.write_text(good.replace(f"{{tcp: 127.0.0.1:{site.port}}}",
                                                    f"{{tcp: 127.0.0.1:{site.port}}}, {{tcp: 127.0.0.1:{taken}}}"))
        done = site.gateway.ask("reload")
        assert done.returncode == 1 and str(taken) in done.stderr, done.stderr
    site.gateway.config.write_text(good.replace(f"127.0.0.1:{site.port}", f"127.0.0.1:{second}"))
    cut = []
    near.client.on_disconnect = lambda *_: cut.append(1)
    done = site.gateway.ask("reload")
    assert f"+ listener mqtt://127.0.0.1:{second}" in done.stdout and "limits: clients 200 → 150" in done.stdout, done.stderr
    witness(second, "plant/#")
    eventually(lambda: cut, hoped="whoever came by the closed listener is sent away")
    site.write()
    assert site.gateway.ask("reload").returncode == 0


def test_the_web_server_and_the_pace_of_stats_change_too(site, witness):
    near = witness(site.port, "plant/$stats/#")
    web = free_port()
    site.upstreams = f"web: {{listen: 127.0.0.1:{web}}}\nstats: {{every: 1s}}\n"
    done = site.reload()
    assert "~ web: listen nowhere → " in done.stdout and "~ stats: every 60s → 1s" in done.stdout, done.stderr
    eventually(lambda: near.by_topic["plant/$stats/ledger"], hoped="stats come every second")
    eventually(lambda: socket.create_connection(("127.0.0.1", web), 1).close() or True, hoped="the web server listens")
    site.upstreams = ""
    assert site.reload().returncode == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", web), 1)


def test_many_reloads_at_once_are_answered_and_the_last_file_runs(site):
    for period in ("300ms", "400ms", "250ms"):
        site.devices["a"] = meter("a", "slow", 1, f"v: {{holding: 0, every: {period}}}")
        site.write()
        for _ in range(3):
            site.gateway.hang_up()
    eventually(lambda: site.gateway.ask("reload").stdout == "nothing has changed\n", hoped="the last file runs")
    assert site.gateway.saw("→ 250ms")
    assert site.gateway.stop() == 0


# ── on trial ──


def candidate(site, period="200ms"):
    site.devices["a"] = meter("a", "slow", 1, f"v: {{holding: 0, every: {period}}}")
    path = site.gateway.folder / "new.yaml"
    path.write_text(site.text())
    return path


def runs(site, period):
    """Whether the gateway runs this period: comparing with it shows no change."""
    done = site.gateway.ask("apply", candidate(site, period), "--dry-run")
    assert done.returncode == 0, done.stderr
    return done.stdout == "nothing has changed\n"


def test_dry_run_shows_and_touches_nothing(site):
    before = site.gateway.config.read_text()
    done = site.gateway.ask("apply", candidate(site), "--dry-run")
    assert done.stdout == "~ point a/v: every 1s → 200ms\n", done
    assert site.gateway.config.read_text() == before and runs(site, "1s")
    bad = site.gateway.folder / "bad.yaml"
    bad.write_text(site.text().replace("every: 1s", "every: 0s"))
    done = site.gateway.ask("apply", bad, "--dry-run")
    assert done.returncode == 78 and "bad.yaml:" in done.stderr, done.stderr


def test_what_is_confirmed_lies_in_its_place(site, witness):
    near = witness(site.port, "plant/#")
    before = site.gateway.config.read_text()
    done = site.gateway.ask("apply", candidate(site), "--confirm", "60s")
    assert done.returncode == 0 and "every 1s → 200ms" in done.stdout and "60 s" in done.stdout, done.stderr
    told = eventually(lambda: (t := config_told(near))["outcome"] == "pending" and t, hoped="it is told")
    assert 0 < told["confirm_within_s"] <= 60
    assert site.gateway.config.read_text() == before, "it is not in its place yet"
    done = site.gateway.ask("reload")
    assert done.returncode == 1 and "trunkline confirm" in done.stderr, done.stderr
    again = site.gateway.ask("apply", candidate(site, "300ms"), "--confirm", "60s")
    assert again.returncode == 1 and "trunkline revert" in again.stderr, again.stderr
    done = site.gateway.ask("confirm")
    assert done.returncode == 0, done.stderr
    assert "every: 200ms" in site.gateway.config.read_text()
    assert site.gateway.config.with_name("gateway.yaml.before").read_text() == before
    eventually(lambda: config_told(near)["outcome"] == "confirmed", hoped="that is told too")
    assert site.gateway.ask("reload").stdout == "nothing has changed\n"
    assert site.gateway.ask("confirm").returncode == 1
    assert site.gateway.stop() == 0
    site.gateway.start()
    assert runs(site, "200ms") and not site.gateway.saw("was not confirmed")


def test_without_confirm_it_is_in_place_at_once(site):
    done = site.gateway.ask("apply", candidate(site))
    assert done.returncode == 0, done.stderr
    assert "every: 200ms" in site.gateway.config.read_text() and runs(site, "200ms")


def test_what_is_not_confirmed_goes_by_itself(site, witness):
    near = witness(site.port, "plant/#")
    assert site.gateway.ask("apply", candidate(site), "--confirm", "2s").returncode == 0
    eventually(lambda: config_told(near)["outcome"] == "reverted", hoped="the one before is back")
    assert "not confirmed in time" in config_told(near)["problems"][0]
    assert runs(site, "1s") and site.gateway.saw("taken back", "not confirmed in time")
    assert not (site.gateway.state / "apply.json").exists()
    assert site.gateway.ask("confirm").returncode == 1


def test_what_is_taken_back_is_gone_at_once(site, witness):
    near = witness(site.port, "plant/#")
    site.devices["c"] = meter("c", "slow", 3, "v: {holding: 0, every: 200ms}")
    assert site.gateway.ask("apply", candidate(site), "--confirm", "60s").returncode == 0
    eventually(lambda: near.json("plant/c/v")["value"] == 30, hoped="the new device is read")
    done = site.gateway.ask("revert")
    assert done.returncode == 0 and "- device c" in done.stdout, done.stderr
    eventually(lambda: near.by_topic["plant/c/v"][-1] == b"", hoped="nothing of it is left")
    del site.devices["c"]
    assert runs(site, "1s")
    assert site.gateway.ask("revert").returncode == 1


def test_after_a_power_cut_on_trial_the_one_before_runs(site, witness):
    assert site.gateway.ask("apply", candidate(site), "--confirm", "1h").returncode == 0
    site.gateway.kill()
    site.gateway.start()
    assert site.gateway.saw("was not confirmed", "the one before runs"), site.gateway.log()
    assert runs(site, "1s")
    near = witness(site.port, "plant/$config")
    eventually(lambda: config_told(near)["outcome"] == "reverted", hoped="it is told")
    site.gateway.kill()
    site.gateway.start()
    assert not site.gateway.saw("was not confirmed"), "once is enough"


def test_a_trial_does_without_an_upstream_and_nothing_is_missing_afterwards(make_gateway, begin, port, cloud, witness):
    upstreams = UPSTREAM.format(port=cloud.port, more="in_flight: 50", filter="plant/f/#", prefix="x")
    site = Site(make_gateway, begin, port, upstreams=upstreams)
    far = witness(cloud.port, "#")
    seen = far.by_topic["x/f/n"]
    eventually(lambda: len(seen) > 5, hoped="values arrive")
    site.upstreams = ""
    assert "- upstream cloud" in site.gateway.ask("apply", candidate(site), "--confirm", "60s").stdout
    at = site.counting.reads
    eventually(lambda: site.counting.reads > at + 10, hoped="the fast line is polled on")
    assert site.gateway.ask("revert").returncode == 0
    eventually(lambda: json.loads(seen[-1])["value"] > at + 10, hoped="values arrive again")
    values = [json.loads(p)["value"] for p in seen]
    assert sorted(set(values)) == list(range(min(values), max(values) + 1)), "nothing is missing"


def test_what_lies_in_the_files_must_be_what_runs_before_a_trial(site):
    new = candidate(site)
    site.gateway.config.write_text(site.text().replace("every: 500ms", "every: 600ms"))
    done = site.gateway.ask("apply", new, "--confirm", "60s")
    assert done.returncode == 1 and "has changed since it was read" in done.stderr and "reload" in done.stderr, done.stderr
