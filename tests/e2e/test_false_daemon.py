"""A daemon that somebody has taken over answers whoever asks by root's hand: what it names is written nowhere but where the
caller means it, and never what is no configuration."""

import json
import os
import socket
import threading

import pytest

GOOD = "gateway: g\nbroker: {listen: [{tcp: 127.0.0.1:0}]}\n"
NEXT = "gateway: g\nstats: {every: 30s}\n"


class FalseDaemon:
    """Answers on a control socket as it likes; each question is a connection of its own."""

    def __init__(self, path, answers):
        self.answers, self.asked = answers, []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                near, _ = self.socket.accept()
            except OSError:
                return
            with near, near.makefile("rw") as lines:
                for line in lines:
                    question = json.loads(line)
                    self.asked.append(question["method"])
                    lines.write(json.dumps({"id": question["id"], "result": self.answers[question["method"]]}) + "\n")
                    lines.flush()

    def stop(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(5)


@pytest.fixture
def false_daemon(make_gateway, begin):
    """A gateway that does not run, and who answers in its place."""
    gateway = make_gateway(GOOD)

    def answer(file, text):
        done = {"changes": ["~ stats"], "warnings": ""}
        pending = {"file": str(file), "text": text, "changes": [], "seconds_left": 60}
        return begin(FalseDaemon(gateway.socket, {
            "config.apply": done, "config.pending": pending, "config.confirm": {"file": str(file)}, "config.revert": done,
        }))

    return gateway, answer


def refused(done, path, *words):
    assert done.returncode == 1, done
    for word in (str(path), "nothing was written", *words):
        assert word in done.stderr, done.stderr


def test_a_file_that_is_no_configuration_is_not_overwritten(false_daemon):
    gateway, answer = false_daemon
    table = gateway.folder / "passwd"
    table.write_text("root:x:0:0:root:/root:/bin/sh\n")
    daemon = answer(table, NEXT)
    refused(gateway.ask("confirm"), table, "-c")
    refused(gateway.ask("confirm", "-c", gateway.config), table, "gateway.yaml")
    new = gateway.folder / "new.yaml"
    new.write_text(NEXT)
    refused(gateway.ask("apply", new), table, "taken back")
    assert table.read_text() == "root:x:0:0:root:/root:/bin/sh\n"
    assert sorted(p.name for p in gateway.folder.iterdir() if p.is_file()) == ["gateway.yaml", "new.yaml", "passwd"]
    assert "config.confirm" not in daemon.asked


def test_what_is_no_configuration_is_not_written(false_daemon):
    gateway, answer = false_daemon
    daemon = answer(gateway.config, "root::0:0:root:/root:/bin/sh\n")
    refused(gateway.ask("confirm"), gateway.config, "trunkline revert")
    refused(gateway.ask("confirm", "-c", gateway.config), gateway.config, "trunkline revert")
    assert gateway.config.read_text() == GOOD and "config.confirm" not in daemon.asked


def test_apply_writes_what_it_was_given_and_nothing_else(false_daemon):
    gateway, answer = false_daemon
    answer(gateway.config, NEXT.replace("30s", "31s"))
    new = gateway.folder / "new.yaml"
    new.write_text(NEXT)
    refused(gateway.ask("apply", new), gateway.config, "another")
    assert gateway.config.read_text() == GOOD


def test_a_link_in_a_folder_of_somebody_else_is_not_followed(false_daemon):
    if os.geteuid() != 0:
        pytest.skip("another owner is made by root alone")
    gateway, answer = false_daemon
    theirs = gateway.folder / "theirs"
    theirs.mkdir()
    (theirs / "gateway.yaml").write_text(GOOD)
    os.chown(theirs, 4242, 4242)
    answer(theirs / "gateway.yaml", NEXT)
    for more in ([], ["-c", theirs / "gateway.yaml"]):
        refused(gateway.ask("confirm", *more), theirs, "4242")
    assert (theirs / "gateway.yaml").read_text() == GOOD


def test_the_file_that_is_meant_is_written_also_where_its_secrets_are_the_daemon_s_alone(false_daemon):
    gateway, answer = false_daemon
    upstream = "upstreams:\n  c: {url: mqtts://h, password: {credential: cloud}, send: [{filter: '#'}]}\n"
    answer(gateway.config, NEXT + upstream)
    done = gateway.ask("confirm")
    assert done.returncode == 0, done.stderr
    assert gateway.config.read_text() == NEXT + upstream
