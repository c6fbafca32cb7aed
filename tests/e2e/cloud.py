"""The cloud: Debian's Mosquitto with a configuration of its own, reached through a cable that can be cut; and MQTT clients
that remember what they saw."""

import collections
import getpass
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from waiting import eventually, free_port

MOSQUITTO = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin:/sbin")


class Mosquitto:
    """A broker without limits of its own that could be mistaken for losses of ours."""

    def __init__(self, folder):
        assert MOSQUITTO, "mosquitto is not installed; tests/run installs it"
        self.port = free_port()
        self.config = pathlib.Path(folder) / "mosquitto.conf"
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "max_queued_messages 0\nmax_inflight_messages 0\nlog_type error\nlog_type warning\n"
        )
        self.process = None
        self.tls_port = self.ca = None

    def also_by_tls(self):
        """A second listener, whose certificate for `localhost` is signed by an authority of its own."""
        folder, self.tls_port = self.config.parent, free_port()
        self.ca = folder / "ca.crt"
        elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        _openssl(folder, "req", "-x509", *elliptic, "-days", "30", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test-ca",
                 "-addext", "basicConstraints=critical,CA:TRUE")
        _openssl(folder, "req", *elliptic, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
        (folder / "extensions").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        _openssl(folder, "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                 "-days", "30", "-extfile", "extensions", "-out", "server.crt")
        with self.config.open("a") as config:
            # Started by root it would become somebody who may not read this folder.
            config.write(f"user {getpass.getuser()}\nlistener {self.tls_port} 127.0.0.1\nallow_anonymous true\ncafile {self.ca}\n"
                         f"certfile {folder / 'server.crt'}\nkeyfile {folder / 'server.key'}\n")
        return self

    def start(self):
        self.process = subprocess.Popen([MOSQUITTO, "-c", self.config])
        eventually(lambda: socket.create_connection(("127.0.0.1", self.port), 1).close() or True, hoped="mosquitto listens")
        return self

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


def _openssl(folder, *arguments):
    subprocess.run(["openssl", *map(str, arguments)], cwd=folder, check=True, capture_output=True)


class Cable:
    """A TCP connection's way from a port of ours to another one, which can be cut and mended."""

    def __init__(self, target):
        self.target = target
        self.port = free_port()
        self.lock = threading.Lock()
        self.pairs = []
        self.listener = None
        self.towards_cloud = threading.Event()
        self.moved = time.monotonic()
        self.mend()

    def mend(self):
        """Connections are possible again."""
        self.towards_cloud.set()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(16)
        self.listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self):
        """At once, with whatever was under way."""
        listener, self.listener = self.listener, None
        if listener:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                _drop(end)
        self.towards_cloud.set()

    def cut_between_packets(self):
        """Holds back what goes to the cloud, lets its last acknowledgements come home, then cuts. What was delivered is then
        known to be delivered, so that a repeat has no excuse."""
        self.towards_cloud.clear()
        eventually(lambda: time.monotonic() - self.moved > 0.5, hoped="the last acknowledgement came home")
        self.cut()

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(self.target, 5)
            except OSError:
                return
            # The time was for the connection. A cable does not mind silence.
            far.settimeout(None)
            with self.lock:
                self.pairs.append((near, far))
            threading.Thread(target=self._carry, args=(near, far, self.towards_cloud), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, None), daemon=True).start()

    def _carry(self, source, sink, gate):
        try:
            while data := source.recv(65536):
                if gate and not gate.is_set():
                    gate.wait()
                    return  # the cut came: what was held back is gone
                sink.sendall(data)
                self.moved = time.monotonic()
        except OSError:
            pass
        _drop(source)
        _drop(sink)


def _drop(end):
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()


def client(client_id="", version=mqtt.MQTTv311, **options):
    if version == mqtt.MQTTv5:
        options.pop("clean_session", None)
    return mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version, **options)


class Witness:
    """A subscriber that writes down every message, in order, by topic."""

    def __init__(self, port, filters, qos=1, version=mqtt.MQTTv311, user=None, client_id=None):
        self.by_topic = collections.defaultdict(list)
        self.retained = {}
        self.total = 0
        self.granted = threading.Event()
        self.client = client(client_id or f"witness-{port}-{id(self)}", version)
        if user:
            self.client.username_pw_set(*user)
        self.client.on_connect = lambda c, *_: c.subscribe([(f, qos) for f in filters])
        self.client.on_subscribe = lambda *_: self.granted.set()
        self.client.on_message = self._write_down
        eventually(lambda: self.client.connect("127.0.0.1", port, 30) == 0, hoped=f"a broker listens on {port}")
        self.client.loop_start()
        assert self.granted.wait(10), "the subscription was not granted"

    def _write_down(self, _client, _data, message):
        if message.retain:
            self.retained[message.topic] = message.payload
        else:
            self.by_topic[message.topic].append(message.payload)
        self.total += 1

    def last(self, topic):
        """The newest payload, kept or live."""
        seen = self.by_topic.get(topic)
        return seen[-1] if seen else self.retained.get(topic)

    def json(self, topic):
        """The newest payload; before the first one every key is None, so that a test can wait for any of them."""
        payload = self.last(topic)
        return collections.defaultdict(lambda: None) if payload is None else json.loads(payload)

    def topics(self):
        return set(self.retained) | set(self.by_topic)

    def stop(self):
        self.client.disconnect()
        self.client.loop_stop()
