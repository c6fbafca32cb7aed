"""MQTT.js over WebSocket, in Node and in a real browser."""

import json
import os
import pathlib
import shutil
import subprocess
import urllib.parse

import pytest

from browser import Browser, Pages
from certificates import Authority
from waiting import free_port

SOURCES = pathlib.Path(__file__).resolve().parents[1] / "js"
# Where tests/run has put the packages, beside a copy of the sources.
INSTALLED = pathlib.Path(os.environ.get("TRUNKLINE_JS", SOURCES)).resolve()
YAML = """
gateway: plant
broker:
  listen: [{{ws: 127.0.0.1:{port}}}]
"""

VERSIONS = pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5"])


def options(version, name, **more):
    return {"protocolVersion": version, "name": name, **more}


def judge(result, name, version):
    assert "error" not in result, result
    heard = {message["topic"].removeprefix(f"{name}/"): message for message in result["heard"]}
    order = [message["topic"] for message in result["heard"] if message["topic"] != f"{name}/will"]
    assert order == [f"{name}/{end}" for end in ("q0", "q1", "q2", "large", "kept", "end")]
    for qos in (0, 1, 2):
        message = heard[f"q{qos}"]
        assert (message["text"], message["qos"], message["retain"]) == (f"value {qos}", qos, False)
        wanted = ({"a": "1", "ä": "ö"}, "answers") if version == 5 else (None, None)
        assert (message["user"], message["response"]) == wanted
    assert heard["large"]["text"] == "200000"
    assert heard["will"]["text"] == "gone"
    assert result["retained"] is True


def in_node(url, asked):
    program = INSTALLED / "node_client.js"
    done = subprocess.run(
        [shutil.which("node"), program, url, json.dumps(asked)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@VERSIONS
def test_mqtt_js_in_node_speaks_over_websocket(version, make_gateway, port):
    make_gateway(YAML.format(port=port)).start()
    judge(in_node(f"ws://127.0.0.1:{port}/mqtt", options(version, "node")), "node", version)


def test_mqtt_js_in_node_speaks_over_websocket_under_tls(make_gateway, port, tmp_path):
    authority = Authority(tmp_path / "pki")
    cert, key = authority.signed("server", "/CN=server", "IP:127.0.0.1")
    yaml = YAML.format(port=port).replace("}]", f", cert: {cert}, key: {key}}}]")
    make_gateway(yaml).start()
    asked = options(5, "tls", ca=str(authority.certificate))
    judge(in_node(f"wss://127.0.0.1:{port}/mqtt", asked), "tls", 5)


@pytest.fixture
def page(begin, tmp_path):
    """Opens the conversation on a page of `host`, and gives back what it reports."""
    bundle = INSTALLED / "node_modules/mqtt/dist/mqtt.min.js"
    assert bundle.exists(), "MQTT.js is not installed; tests/run installs it"
    files = {"page.html": SOURCES / "page.html", "conversation.js": SOURCES / "conversation.js", "mqtt.min.js": bundle}
    pages = begin(Pages(files).start())

    def open_on(host, url, asked):
        query = urllib.parse.urlencode({"url": url, "options": json.dumps(asked)})
        begin(Browser(tmp_path / f"profile-{host}-{asked['name']}", f"http://{host}:{pages.port}/page.html?{query}").start())
        return pages.reports.get(timeout=90)

    open_on.port = pages.port
    return open_on


@VERSIONS
def test_mqtt_js_in_a_browser_speaks_from_a_page_of_the_same_host(version, make_gateway, port, page):
    make_gateway(YAML.format(port=port)).start()
    result = page("127.0.0.1", f"ws://127.0.0.1:{port}/mqtt", options(version, "page"))
    judge(result, "page", version)


def test_a_page_of_another_host_stays_outside_unless_it_is_named(make_gateway, port, page):
    named = free_port()
    listeners = f"{{ws: 127.0.0.1:{port}}}, {{ws: 127.0.0.1:{named}, origins: [http://localhost:{page.port}]}}"
    gateway = make_gateway(f"gateway: plant\nbroker:\n  listen: [{listeners}]\n").start()
    # `localhost` is another host than 127.0.0.1 to a browser, and to us.
    refused = page("localhost", f"ws://127.0.0.1:{port}/mqtt", options(5, "foreign"))
    assert "error" in refused, refused
    assert gateway.saw("WebSocket handshake failed", "403")
    judge(page("localhost", f"ws://127.0.0.1:{named}/mqtt", options(5, "named")), "named", 5)
