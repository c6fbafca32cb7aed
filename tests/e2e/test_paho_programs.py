"""The two Python programs in tests/paho, as a person starts them, against the embedded broker."""

import pathlib
import subprocess
import sys
import threading

import pytest

from waiting import eventually

PROGRAMS = pathlib.Path(__file__).resolve().parents[1] / "paho"
USER = ("--user", "hmi", "--password", "s3cret word")
YAML = """
gateway: plant
broker:
  listen: [{{tcp: 127.0.0.1:{port}}}]
  anonymous: never
  users: users.yaml
  access:
    - {{user: hmi, read: ["#"], write: ["#"]}}
    - {{user: guest, read: ["a/#"], write: ["b/#"]}}
"""


class Subscriber:
    """subscriber.py, and the lines that it printed."""

    def __init__(self, port, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, PROGRAMS / "subscriber.py", "--port", str(port), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def says(self, line, within=15):
        eventually(lambda: line in self.lines, within=within, hoped=f"subscriber.py prints `{line}`; it printed {self.lines}")
        return self

    def messages(self):
        return [line for line in self.lines if " live " in line or " retained " in line]

    def stop(self):
        self.process.kill()
        self.process.wait(10)


def publish(port, *arguments, user=USER):
    return subprocess.run(
        [sys.executable, PROGRAMS / "publisher.py", "--port", str(port), *user, *arguments],
        capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def broker(make_gateway, port):
    gateway = make_gateway(YAML.format(port=port))
    for name, password in (("hmi", "s3cret word"), ("guest", "guest")):
        done = gateway.command("passwd", "--file", gateway.folder / "users.yaml", name, stdin=f"{password}\n")
        assert done.returncode == 0, done.stdout + done.stderr
    written = (gateway.folder / "users.yaml").read_text()
    assert "s3cret" not in written and "argon2" in written
    gateway.start()
    return port


@pytest.fixture
def subscriber(begin, broker):
    def start(*arguments, user=USER):
        return begin(Subscriber(broker, *user, *arguments))

    return start


VERSIONS = pytest.mark.parametrize("version", [(), ("--v5",)], ids=["3.1.1", "5"])


@VERSIONS
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_a_publisher_reaches_a_subscriber_at_every_qos(qos, version, broker, subscriber):
    one = subscriber(*version, "--qos", qos, "plant/hall").says("subscribed")
    assert publish(broker, *version, "--qos", qos, "plant/hall", "21.5").returncode == 0
    one.says(f"plant/hall {qos} live 21.5")


@VERSIONS
def test_wildcards_match_as_they_should(version, broker, subscriber):
    wanted = {"a/+": ["a/b"], "a/+/c": ["a/b/c"], "a/#": ["a", "a/b", "a/b/c"]}
    listeners = {f: subscriber(*version, "--qos", "1", f, "end").says("subscribed") for f in wanted}
    topics = ["a", "a/b", "a/b/c", "b/a", "a2/b"]
    publish(broker, *version, "--qos", "1", *[part for t in [*topics, "end"] for part in (t, "x")])
    for topic_filter, one in listeners.items():
        one.says("end 1 live x")
        assert one.messages() == [f"{t} 1 live x" for t in [*wanted[topic_filter], "end"]]


@VERSIONS
def test_a_retained_message_waits_for_who_comes_later_and_an_empty_one_removes_it(version, broker, subscriber):
    publish(broker, *version, "--qos", "1", "--retain", "hall/setpoint", "19")
    subscriber(*version, "--qos", "1", "hall/#").says("hall/setpoint 1 retained 19")
    publish(broker, *version, "--qos", "1", "--retain", "hall/setpoint", "")
    late = subscriber(*version, "--qos", "1", "hall/#").says("subscribed")
    publish(broker, *version, "--qos", "1", "hall/end", "x")
    late.says("hall/end 1 live x")
    assert late.messages() == ["hall/end 1 live x"]


@VERSIONS
def test_the_last_will_of_who_dies_is_published_and_of_who_leaves_is_not(version, broker, subscriber):
    one = subscriber(*version, "--qos", "1", "wills/#", "end").says("subscribed")
    publish(broker, *version, "--will", "wills/polite", "gone")
    publish(broker, *version, "--die", "--qos", "1", "--will", "wills/dead", "gone", "any", "x")
    one.says("wills/dead 1 live gone")
    assert one.messages() == ["wills/dead 1 live gone"]


def test_clean_session_false_keeps_what_came_meanwhile_and_true_forgets_it(broker, subscriber):
    for name, keep in (("kept", ("--keep-session",)), ("clean", ())):
        me = (*keep, "--client-id", name, "--qos", "1")
        first = subscriber(*me, "--subscribe-only", f"{name}/#").says("subscribed")
        eventually(lambda: first.process.poll() is not None, hoped="it left")
        publish(broker, "--qos", "1", f"{name}/1", "one", f"{name}/2", "two")
        again = subscriber(*me, f"{name}/#").says("subscribed")
        publish(broker, "--qos", "1", f"{name}/3", "three")
        again.says(f"{name}/3 1 live three")
        if keep:
            assert "connected to its old session" in again.lines
            assert again.messages() == [f"{name}/{n} 1 live {w}" for n, w in ((1, "one"), (2, "two"), (3, "three"))]
        else:
            assert "connected anew" in again.lines
            assert again.messages() == [f"{name}/3 1 live three"]


@VERSIONS
def test_who_has_no_name_or_a_wrong_password_stays_outside(version, broker, subscriber):
    assert publish(broker, *version, "a", "x").returncode == 0
    for user in ((), ("--user", "hmi", "--password", "wrong"), ("--user", "nobody", "--password", "s3cret word")):
        done = publish(broker, *version, "a", "x", user=user)
        assert done.returncode == 2 and "refused" in done.stdout, (user, done)


def test_access_rules_hold(broker, subscriber):
    guest = ("--user", "guest", "--password", "guest")
    all_seeing = subscriber("--qos", "1", "#").says("subscribed")
    publish(broker, "--qos", "1", "c/forbidden", "x", "b/allowed", "x", user=guest)
    all_seeing.says("b/allowed 1 live x")
    assert "c/forbidden 1 live x" not in all_seeing.lines
