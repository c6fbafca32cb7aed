"""The daemon can be asked: control socket, health, metrics; and the demo."""

import re
import socket
import stat
import subprocess
import urllib.error
import urllib.request

from gateway import BINARY
from modbus_peer import TcpPeer, device
from waiting import eventually, free_port

YAML = """
gateway: plant
lines: {{plc: {line}}}
devices:
  - {{name: meter, line: plc, unit_id: 1, points: {{v: {{holding: 0, every: 200ms}}}}}}
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
web: {{listen: 127.0.0.1:{web}}}
"""


def running(make_gateway, begin, port):
    peer = begin(TcpPeer([device(1, [11])]).start())
    web = free_port()
    return make_gateway(YAML.format(line=peer.line(), port=port, web=web)).start(), web, peer


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_status_tells_lines_devices_spool_and_clients(make_gateway, begin, witness, port):
    gateway, _, _ = running(make_gateway, begin, port)
    witness(port, "plant/#")
    status = eventually(lambda: (s := gateway.status())["broker"]["clients"] and s["publish"]["published"] and s,
                        hoped="a client and a value")
    assert status["gateway"] == "plant" and status["schema"] >= 1
    assert [line["name"] for line in status["lines"]] == ["plc"] and status["lines"][0]["up"]
    assert gateway.device("meter")["state"] == "online"
    account = status["publish"]
    assert account["polled"] == account["suppressed"] + account["published"] + account["held"], account
    assert status["broker"]["clients"][0]["version"] == "3.1.1"
    assert status["panics"] == {}
    table = gateway.command("status", "--socket", gateway.socket)
    assert table.returncode == 0 and "meter" in table.stdout and "plc" in table.stdout


def test_the_control_socket_is_for_its_group_only(make_gateway, begin, port):
    gateway, _, _ = running(make_gateway, begin, port)
    assert stat.S_IMODE(gateway.socket.stat().st_mode) == 0o660


def test_status_without_a_daemon_says_so(make_gateway):
    gateway = make_gateway("gateway: plant\n")
    done = gateway.command("status", "--socket", gateway.socket)
    assert done.returncode == 2 and str(gateway.socket) in done.stderr


def test_health_and_metrics_answer(make_gateway, begin, port):
    gateway, web, _ = running(make_gateway, begin, port)
    eventually(lambda: gateway.device("meter")["state"] == "online", hoped="the device answers")
    eventually(lambda: get(web, "/healthz")[0] == 200, hoped="healthy")
    code, text = get(web, "/metrics")
    assert code == 200
    names = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    assert names and all(name.startswith(("trunkline_", "process_")) for name in names), names
    samples = re.findall(r"^(trunkline_\w+)(\{[^}]*\})? (\S+)$", text, re.M)
    assert samples and all(float(value) >= 0 for _, _, value in samples)
    assert any('line="plc"' in labels for _, labels, _ in samples), text
    assert get(web, "/nothing")[0] == 404


def test_sigterm_ends_it_cleanly_and_says_goodbye(make_gateway, begin, witness, port):
    gateway, _, _ = running(make_gateway, begin, port)
    near = witness(port, "plant/#", "plant/$state")
    eventually(lambda: near.last("plant/$state") == b"online", hoped="the gateway says that it is online")
    assert gateway.stop() == 0
    assert not gateway.socket.exists()


def number(summary, name):
    """The figure behind a word at the beginning of a line: `  = suppressed   1,234   nothing had changed enough`."""
    found = re.search(rf"^\s*[=+]?\s*{name}\s+([0-9][0-9,]*)", summary, re.M)
    assert found, f"no `{name}` in:\n{summary}"
    return int(found[1].replace(",", ""))


def test_the_demo_ends_by_itself_with_a_summary_that_adds_up(tmp_path):
    done = subprocess.run(
        [BINARY, "demo", "--for", "20s", "--broker-port", str(free_port()), "--cloud-port", str(free_port())],
        capture_output=True, text=True, timeout=90, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "\x1b" not in done.stdout, "no cursor movements where there is no terminal"
    summary = done.stdout[done.stdout.rindex("Summary") :]
    polled, suppressed, published = (number(summary, n) for n in ("polled", "suppressed", "published"))
    assert polled == suppressed + published and published > 0, summary
    assert 0 <= number(summary, "sent upstream") - number(summary, "acknowledged") <= 100, summary
    assert number(summary, "lost") == 0 and number(summary, "out of order") == 0, summary


def test_the_demo_names_the_port_that_is_taken_and_the_option_that_changes_it(tmp_path):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = str(squatter.getsockname()[1])
        done = subprocess.run([BINARY, "demo", "--for", "5s", "--broker-port", port, "--cloud-port", str(free_port())],
                              capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert done.returncode != 0 and port in done.stderr and "--broker-port" in done.stderr, done.stderr
