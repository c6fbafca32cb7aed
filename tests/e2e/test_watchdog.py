"""The watchdog as the service manager sees it: fed while work is done, starved by a line that hangs, which is named. The test is
the service manager: it hears what the gateway says and does what systemd would do."""

import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import pytest

from modbus_peer import Counting, SerialPeer, TcpPeer, device
from waiting import eventually

SOURCE = pathlib.Path(__file__).with_name("stuck_port.c")
# What the unit's WatchdogSec would be. Short, because the test waits for it; long enough for a machine that is busy.
LIMIT = 8.0

YAML = """
gateway: plant
lines:
  hall: {{serial: {port}, baud: 115200, format: 8N1, timeout: 1s}}
  plc: {plc}
devices:
  - {{name: meter, line: hall, unit_id: 1, points: {{v: {{holding: 0, every: 200ms}}}}}}
  - {{name: chiller, line: plc, unit_id: 1, points: {{v: {{holding: 0, every: 200ms}}}}}}
publish:
  report: {{when: poll}}
broker:
  listen: [{{tcp: 127.0.0.1:{broker}}}]
"""


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, folder):
        self.path = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.said = []
        self.fed = time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            try:
                words = self.socket.recv(65536).decode().splitlines()
            except OSError:
                return
            if "WATCHDOG=1" in words or "READY=1" in words:
                self.fed = time.monotonic()
            self.said.extend(words)

    def heard(self, *words):
        return [line for line in list(self.said) if all(word in line for word in words)]

    def is_over(self):
        """Whether systemd would act now."""
        return time.monotonic() - self.fed > LIMIT

    def variables(self):
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(int(LIMIT * 1e6))}

    def stop(self):
        self.socket.close()


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    built = tmp_path_factory.mktemp("shim") / "stuck_port.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", built, SOURCE, "-ldl"], check=True)
    return built


def test_a_line_that_hangs_in_its_driver_starves_the_watchdog_and_is_named(
        make_gateway, begin, witness, tmp_path, port, shim):
    trunk = begin(SerialPeer([device(1, action=Counting().action())]).start())
    plc = begin(TcpPeer([device(1, action=Counting().action())]).start())
    adapter, word = tmp_path / "adapter", tmp_path / "stuck"
    adapter.symlink_to(trunk.cable.near)
    gateway = make_gateway(YAML.format(port=adapter, plc=plc.line(), broker=port))
    manager = begin(Manager(gateway.run_dir))
    stuck = {"LD_PRELOAD": str(shim), "STUCK_PORT": str(adapter), "STUCK_WORD": str(word)}
    gateway.variables = {**manager.variables(), **stuck}
    gateway.start()
    near = witness(port, "plant/#")
    ready = eventually(lambda: manager.heard("STATUS=", "2 lines"), hoped="READY with words")

    eventually(lambda: len(manager.heard("WATCHDOG=1")) > 12, within=60, hoped="food, for longer than the limit")
    assert not manager.heard("stands still")

    # The adapter drops out and comes back under the same name, with a driver that hangs.
    word.touch()
    again = begin(SerialPeer([device(1, action=Counting().action())]).start())
    adapter.unlink()
    adapter.symlink_to(again.cable.near)
    trunk.cable.hang_up()
    eventually(lambda: manager.heard("STATUS=", "line hall stands still"), within=60, hoped="the line is named")
    fed = len(manager.heard("WATCHDOG=1"))
    eventually(lambda: gateway.saw("ERROR", "line hall stands still"), hoped="and in the log")
    mark = len(near.by_topic["plant/chiller/v"])
    eventually(lambda: len(near.by_topic["plant/chiller/v"]) > mark + 10, hoped="the other line is polled")
    eventually(manager.is_over, within=60, hoped="the watchdog is starved")
    assert len(manager.heard("WATCHDOG=1")) == fed, "no food since the line was named"
    assert not manager.heard("line plc"), manager.said

    # What systemd does.
    gateway.process.send_signal(signal.SIGABRT)
    assert gateway.exit_code() == -signal.SIGABRT
    word.unlink()
    gateway.start()
    eventually(lambda: manager.said.count(ready[0]) > 1, hoped="it is ready again")
    eventually(lambda: gateway.device("meter")["state"] == "online", hoped="the line is polled again")
