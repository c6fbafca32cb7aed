"""Who comes in, and as whom: certificates, passwords, pages, and that no secret is ever logged."""

import json
import socket
import ssl
import struct
import threading

import paho.mqtt.client as mqtt
import pytest

from certificates import Authority
from cloud import Witness, client
from waiting import eventually, free_port

NOT_AUTHORIZED = 0x87


def connected(one, port):
    """The reason code of CONNACK, or why there was none."""
    answer, came = [], threading.Event()

    def on_connect(_client, _data, _flags, reason, *_):
        answer.append(reason.value)
        came.set()

    one.on_connect = on_connect
    one.on_disconnect = lambda *_: came.set()
    try:
        one.connect("127.0.0.1", port, 30)
    except (ssl.SSLError, ConnectionError) as error:
        return str(error)
    one.loop_start()
    assert came.wait(20), "neither CONNACK nor the end came"
    return answer[0] if answer else "closed"


def say(one, topic, payload=b"x"):
    """Publishes with QoS 1; the reason code of PUBACK."""
    codes, came = {}, threading.Event()

    def on_publish(_client, _data, mid, reason, *_):
        codes[mid] = reason.value
        came.set()

    one.on_publish = on_publish
    mid = one.publish(topic, payload, qos=1).mid
    eventually(lambda: mid in codes, hoped=f"PUBACK for {topic}")
    return codes[mid]


@pytest.fixture
def comer(begin):
    """A client of version 5 that is closed at the end."""
    def make(client_id, authority=None, shown=None, user=None):
        one = client(client_id, mqtt.MQTTv5)
        if authority:
            cert, key = shown or (None, None)
            one.tls_set(str(authority.certificate), cert and str(cert), key and str(key))
            # The name of the server is not what is tested here.
            one.tls_insecure_set(True)
        if user:
            one.username_pw_set(*user)
        one.stop = lambda: (one.disconnect(), one.loop_stop())
        return begin(one)

    return make


def add_user(gateway, name, password):
    done = gateway.command("passwd", "--file", gateway.folder / "users.yaml", name, stdin=f"{password}\n")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def pki(tmp_path):
    return Authority(tmp_path / "pki")


def listener(pki, port, *more):
    cert, key = pki.signed(f"server-{port}", "/CN=server")
    words = [f"tls: 127.0.0.1:{port}", f"cert: {cert}", f"key: {key}", *more]
    return "{" + ", ".join(words) + "}"


def test_the_common_name_of_a_certificate_is_the_user_and_rules_hold_for_it(make_gateway, pki, port, comer):
    tls = listener(pki, port, f"client_ca: {pki.certificate}", "user: common_name")
    gateway = make_gateway(f"""
gateway: plant
broker:
  listen: [{tls}]
  anonymous: never
  access:
    - {{user: pump-7, read: ["plant/#"], write: ["pumps/%u/#"]}}
""").start()
    # The name in CONNECT is somebody else's; the certificate decides.
    pump = comer("seven", pki, pki.signed("pump", "/O=Works/CN=pump-7"), user=("admin", "guessed"))
    assert connected(pump, port) == 0
    assert [c["user"] for c in gateway.status()["broker"]["clients"]] == ["pump-7"] or eventually(
        lambda: [c["user"] for c in gateway.status()["broker"]["clients"]] == ["pump-7"], hoped="the user is known")
    assert say(pump, "pumps/pump-7/speed") in (0, 0x10)
    assert say(pump, "pumps/pump-8/speed") == NOT_AUTHORIZED

    for name, subject in (("two", "/CN=pump-7/CN=pump-8"), ("none", "/O=Works"), ("blank", "/CN= pump-7")):
        assert connected(comer(name, pki, pki.signed(name, subject)), port) == NOT_AUTHORIZED, subject
    assert gateway.saw("no common name that could be a user")
    stranger = Authority(pki.folder.parent / "strangers", "stranger")
    for shown in (None, stranger.signed("pump", "/CN=pump-7")):
        assert connected(comer("nobody", pki, shown), port) not in (0, 0x10), "came in without a right certificate"
    assert gateway.saw("TLS handshake failed")


def test_a_certificate_can_be_optional_and_who_shows_none_logs_in(make_gateway, pki, port, comer):
    tls = listener(pki, port, f"client_ca: {pki.certificate}", "client_certificate: optional", "user: common_name")
    gateway = make_gateway(
        f"gateway: plant\nbroker: {{listen: [{tls}], anonymous: never, users: users.yaml}}\n")
    add_user(gateway, "hmi", "right")
    gateway.start()
    assert connected(comer("a", pki, user=("hmi", "right")), port) == 0
    assert connected(comer("b", pki, pki.signed("pump", "/CN=pump-7")), port) == 0
    assert connected(comer("c", pki), port) == NOT_AUTHORIZED
    assert connected(comer("d", pki, user=("hmi", "wrong")), port) == 0x86
    seen = json.loads(gateway.command("clients", "--json", "--socket", gateway.socket).stdout)
    assert {c["id"]: c["user"] for c in seen["connected"]} == {"a": "hmi", "b": "pump-7"}


def handshake(port, origin=None, path="/mqtt", protocol="mqtt"):
    """Status of a WebSocket handshake."""
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket",
             "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
             f"Sec-WebSocket-Protocol: {protocol}"]
    lines += [f"Origin: {origin}"] if origin else []
    with socket.create_connection(("127.0.0.1", port), 10) as stream:
        stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return int(stream.makefile("rb").readline().split()[1])


def test_pages_of_other_hosts_are_refused_and_programs_are_not(make_gateway, port):
    named = free_port()
    make_gateway(f"""
gateway: plant
broker:
  listen:
    - {{ws: 127.0.0.1:{port}}}
    - {{ws: 127.0.0.1:{named}, origins: [https://hmi.example.com]}}
""").start()
    assert handshake(port) == 101
    assert handshake(port, "http://127.0.0.1:8080") == 101
    for foreign in ("https://hmi.example.com", "http://evil.example", "null", "http://127.0.0.1.evil.example"):
        assert handshake(port, foreign) == 403, foreign
    assert handshake(named, "https://hmi.example.com") == 101
    assert handshake(named, "http://hmi.example.com") == 403
    assert handshake(port, path="/") == 404
    assert handshake(port, protocol="chat") == 400


def leave_without_a_word(port, name, password):
    body = b"\0\4MQTT\5\xc2\0\0\0" + b"".join(struct.pack(">H", len(t)) + t.encode() for t in ("rude", name, password))
    with socket.create_connection(("127.0.0.1", port), 10) as stream:
        stream.sendall(bytes([0x10, len(body)]) + body)
        assert stream.recv(2)[0] == 0x20


def test_no_secret_is_in_the_log_even_when_everything_is_logged(make_gateway, pki, port, begin, comer):
    plain, upstream = free_port(), free_port()
    tls = listener(pki, port)
    gateway = make_gateway(f"""
gateway: plant
broker:
  listen: [{tls}, {{tcp: 127.0.0.1:{plain}}}]
  anonymous: never
  users: users.yaml
  access: [{{user: hmi, read: ["#"], write: ["#"]}}]
upstreams:
  cloud:
    url: mqtt://127.0.0.1:{upstream}
    username: {{file: token}}
    password: {{file: word}}
    send: [{{filter: "plant/#"}}]
""")
    secrets = {"user": "correct horse", "wrong": "battery staple", "token": "token-4711", "word": "word-0815"}
    add_user(gateway, "hmi", secrets["user"])
    for name in ("token", "word"):
        (gateway.folder / name).write_text(secrets[name] + "\n")
    gateway.variables["TRUNKLINE_LOG"] = "trace"
    gateway.start()
    assert connected(comer("a", pki, user=("hmi", secrets["user"])), port) == 0
    assert connected(comer("b", user=("hmi", secrets["wrong"])), plain) == 0x86
    begin(Witness(plain, ["plant/#"], user=("hmi", secrets["user"])))
    leave_without_a_word(plain, "hmi", secrets["user"])
    eventually(lambda: gateway.saw("debug", "went without DISCONNECT"), hoped="everything is logged")
    assert gateway.saw("info", "client refused")
    gateway.stop()
    log = gateway.log()
    hashes = [line.split("'")[1] for line in (gateway.folder / "users.yaml").read_text().splitlines() if "'" in line]
    keys = [line for path in pki.folder.glob("*.key") for line in path.read_text().splitlines() if len(line) > 40]
    assert hashes and keys
    for secret in [*secrets.values(), *hashes, *(h.rsplit("$", 1)[1] for h in hashes), *keys]:
        assert secret not in log, f"`{secret}` is in the log"
    checked = gateway.command("check", "-c", gateway.config)
    assert not any(secret in checked.stdout + checked.stderr for secret in secrets.values())
