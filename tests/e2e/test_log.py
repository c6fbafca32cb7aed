"""The log as the journal and a person get it: priorities where the journal reads along, and no flood."""

import os
import socket
import subprocess

from gateway import BINARY

YAML = """
gateway: plant
broker:
  listen: [{{tcp: 127.0.0.1:{port}}}]
"""


class Stream:
    """Standard error as systemd makes it: the variable names the stream it is."""

    def __init__(self):
        self.reader, self.writer = os.pipe()
        end = os.fstat(self.writer)
        self.variables = {"JOURNAL_STREAM": f"{end.st_dev}:{end.st_ino}"}

    def lines(self):
        os.close(self.writer)
        with os.fdopen(self.reader) as stream:
            return stream.read().splitlines()


def test_under_the_journal_a_configuration_that_is_wrong_is_an_error_line_by_line(make_gateway):
    gateway = make_gateway("gateway: plant\nlinse: {}\n")
    stream = Stream()
    done = subprocess.run(
        [BINARY, "run", "-c", gateway.config], stderr=stream.writer, timeout=60, check=False,
        env={**gateway.environment(), **stream.variables})
    lines = stream.lines()
    assert done.returncode == 78
    assert "linse" in "".join(lines) and all(line.startswith("<3>") for line in lines), lines


def test_whoever_is_not_read_by_the_journal_says_no_priorities(make_gateway):
    gateway = make_gateway("gateway: plant\nlinse: {}\n")
    gateway.variables = {"JOURNAL_STREAM": "1:1"}
    done = subprocess.run(
        [BINARY, "run", "-c", gateway.config], stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        env={**gateway.environment(), **gateway.variables})
    assert "<3>" not in done.stderr, done.stderr


def test_the_same_client_that_fails_all_day_is_said_five_times(make_gateway, port):
    gateway = make_gateway(YAML.format(port=port)).start()
    wrong = 40
    for _ in range(wrong):
        with socket.create_connection(("127.0.0.1", port)) as client:
            # A first packet that is no CONNECT.
            client.sendall(b"\xc0\x00")
            client.settimeout(5)
            while client.recv(100):
                pass
    gateway.stop()
    said = [line for line in gateway.lines if "connection refused" in line and "more like this" not in line]
    assert len(said) == 5, said
    assert gateway.saw(f"{wrong - 5} more like this in the last", "connection refused"), gateway.log()
    assert gateway.saw("stopped"), "and what is something else is said"


def test_a_stop_that_was_asked_for_is_no_error(make_gateway, port):
    """Who lives on the broker sees it end before being told to stop; seen under systemd as a bug of the task `commands`."""
    gateway = make_gateway(YAML.format(port=port)).start()
    assert gateway.stop() == 0
    assert not gateway.saw("ERROR") and not gateway.saw("WARN"), gateway.log()
