"""Mosquitto's own client programs against the embedded broker, as people use them in scripts."""

import shutil
import subprocess

import pytest

from waiting import eventually

YAML = """
gateway: plant
broker:
  listen: [{{tcp: 127.0.0.1:{port}}}]
  access: [{{read: ["#", "$SYS/#"], write: ["#"]}}]
"""
VERSIONS = pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "mqttv5"])


class Tools:
    """mosquitto_sub and its like, told where the broker is."""

    def __init__(self, gateway, port, begin):
        self.gateway, self.port, self.begin = gateway, port, begin

    def command(self, name, *words):
        program = shutil.which(name)
        assert program, f"{name} is not installed; tests/run installs it"
        return [program, "-h", "127.0.0.1", "-p", str(self.port), *words]

    def run(self, name, *words, **more):
        return subprocess.run(
            self.command(name, *words), capture_output=True, text=True, timeout=30, check=False, **more)

    def listen(self, client_id, *words, count):
        """mosquitto_sub for so many messages, when it has subscribed."""
        command = self.command("mosquitto_sub", "-i", client_id, "-C", str(count), "-W", "30", *words)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        process.stop = lambda: (process.kill(), process.wait(10))
        self.begin(process)
        self.subscribed(client_id)
        return process

    def subscribed(self, client_id):
        def look():
            return any(c["id"] == client_id and c["subscriptions"] for c in self.gateway.status()["broker"]["clients"])

        eventually(look, hoped=f"{client_id} has subscribed")


@pytest.fixture
def tools(make_gateway, port, begin):
    return Tools(make_gateway(YAML.format(port=port)).start(), port, begin)


@VERSIONS
def test_pub_and_sub_at_every_qos(tools, version):
    sub = tools.listen("sub", "-V", version, "-q", "2", "-t", "hall/+", "-F", "%t %q %r %p", count=3)
    for qos in "012":
        done = tools.run("mosquitto_pub", "-V", version, "-q", qos, "-t", f"hall/{qos}", "-m", f"value {qos}")
        assert done.returncode == 0, done.stderr
    out, _ = sub.communicate(timeout=30)
    assert out.splitlines() == [f"hall/{qos} {qos} 0 value {qos}" for qos in "012"]


@VERSIONS
def test_a_retained_value_is_there_for_who_comes_later_and_can_be_removed(tools, version):
    assert tools.run("mosquitto_pub", "-V", version, "-r", "-q", "1", "-t", "set/point", "-m", "19").returncode == 0
    late = tools.run("mosquitto_sub", "-V", version, "-C", "1", "-W", "20", "-t", "set/#", "-F", "%r %p")
    assert late.stdout == "1 19\n"
    assert tools.run("mosquitto_sub", "-V", version, "--remove-retained", "-W", "1", "-t", "set/#").returncode in (0, 27)
    assert tools.gateway.status()["broker"]["retained"] is not None
    shown = tools.gateway.command("topics", "set/#", "--socket", tools.gateway.socket)
    assert "no topic that matches set/#" in shown.stdout


def test_a_session_waits_for_its_subscriber(tools):
    me = ("-V", "mqttv311", "-i", "night", "-c", "-q", "1", "-t", "night/#")
    assert tools.run("mosquitto_sub", *me, "-E").returncode == 0
    for n in range(50):
        assert tools.run("mosquitto_pub", "-q", "1", "-t", "night/watch", "-m", str(n)).returncode == 0
    heard = tools.run("mosquitto_sub", *me, "-C", "50", "-W", "20")
    assert heard.stdout.split() == [str(n) for n in range(50)]


def test_a_request_finds_its_answer_by_the_response_topic(tools, begin):
    command = tools.command("mosquitto_rr", "-V", "mqttv5", "-i", "asker", "-t", "ask", "-e", "answers/asker", "-m",
                            "how much", "-W", "30", "-D", "publish", "correlation-data", "4711")
    answerer = tools.listen("answerer", "-V", "mqttv5", "-t", "ask", "-F", "%R %D %p", count=1)
    asker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    asker.stop = lambda: (asker.kill(), asker.wait(10))
    begin(asker)
    question, _ = answerer.communicate(timeout=30)
    topic, correlation, *words = question.split()
    assert (topic, correlation, words) == ("answers/asker", "4711", ["how", "much"])
    answer = tools.run("mosquitto_pub", "-V", "mqttv5", "-t", topic, "-m", "42", "-D", "publish", "correlation-data",
                       correlation)
    assert answer.returncode == 0, answer.stderr
    out, _ = asker.communicate(timeout=30)
    assert out.strip() == "42"


def test_shared_subscribers_share_and_properties_pass(tools):
    pair = [tools.listen(f"worker-{n}", "-V", "mqttv5", "-q", "1", "-t", "$share/crew/work", "-F", "%p %P", count=5)
            for n in (1, 2)]
    lines = "".join(f"job {n}\n" for n in range(10))
    done = tools.run("mosquitto_pub", "-V", "mqttv5", "-q", "1", "-t", "work", "-l", "-D", "publish", "user-property",
                     "by", "test", input=lines)
    assert done.returncode == 0, done.stderr
    heard = [line for one in pair for line in one.communicate(timeout=30)[0].splitlines()]
    assert sorted(heard) == sorted(f"job {n} by:test" for n in range(10))
