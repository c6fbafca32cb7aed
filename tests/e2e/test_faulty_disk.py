"""A disk that fails under the spool: nothing that was measured is lost while the gateway lives, the fault is said, and when
the disk is well again, or after a kill in the middle of it, the account adds up and no human hand is needed."""

import json
import pathlib
import subprocess

import pytest

from modbus_peer import Counting, TcpPeer, device
from test_store_and_forward import adds_up, arrived, config, values_at
from waiting import eventually

SOURCE = pathlib.Path(__file__).with_name("faulty_disk.c")


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    built = tmp_path_factory.mktemp("shim") / "faulty_disk.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", built, SOURCE, "-ldl"], check=True)
    return built


class Disk:
    def __init__(self, gateway, shim, folder, name="/spool.db"):
        self.word = pathlib.Path(folder) / "fault"
        self.mend()
        gateway.variables = {"LD_PRELOAD": str(shim), "FAULTY_DISK": str(self.word), "FAULTY_NAME": name}

    def fails(self, how):
        self.word.write_text(how)

    def mend(self):
        self.word.write_text("")


def offline(make_gateway, begin, witness, cable, port, shim, tmp_path):
    cable.cut()
    peer = begin(TcpPeer([device(1, action=Counting().action())]).start())
    gateway = make_gateway(config(peer, port, cable.port, points=20))
    disk = Disk(gateway, shim, tmp_path)
    gateway.start()
    near = witness(port, "plant/meter/+")
    eventually(lambda: gateway.status()["spool"]["on_disk"] > 200, within=60, hoped="a backlog lies on disk")
    return gateway, disk, near


def test_the_configuration_is_put_on_disk_at_the_start_and_with_a_reload(make_gateway, port, shim, tmp_path):
    """After a power cut a file that was just written by `cp` or a shell is empty; what runs must not end so."""
    gateway = make_gateway(f"gateway: plant\nbroker:\n  listen: [{{tcp: 127.0.0.1:{port}}}]\n")
    disk = Disk(gateway, shim, tmp_path, gateway.config.name)
    disk.fails("nosync")
    gateway.start()

    def tries():
        return sum("a power cut may undo" in line and gateway.config.name in line for line in gateway.lines)

    eventually(lambda: tries() == 1, hoped="it is tried at the start, and its failure is said")
    assert gateway.ask("reload").returncode == 0
    eventually(lambda: tries() == 2, hoped="and with a reload")


def test_a_disk_that_hangs_holds_up_a_reload_for_a_moment_and_neither_polls_nor_the_stop(
        make_gateway, begin, witness, port, shim, tmp_path):
    peer = begin(TcpPeer([device(1, action=Counting().action())]).start())
    text = (f"gateway: plant\nbroker:\n  listen: [{{tcp: 127.0.0.1:{port}}}]\nlines:\n  hall: {{tcp: 127.0.0.1:{peer.port}}}\n"
            "devices:\n  - {name: meter, line: hall, unit_id: 1, points: {p: {holding: 0, every: 100ms}}}\n")
    gateway = make_gateway(text)
    disk = Disk(gateway, shim, tmp_path, gateway.config.name)
    gateway.start()
    near = witness(port, "plant/meter/p")

    def more():
        before = near.total
        eventually(lambda: near.total > before + 3, hoped="it is polled")

    more()
    disk.fails("hang")
    for period, said in (("200ms", "the disk takes its time"), ("300ms", "the disk hangs since an earlier reload")):
        gateway.config.write_text(text.replace("100ms", period))
        done = gateway.ask("reload")
        assert done.returncode == 0 and period in done.stdout, done
        assert gateway.saw("a power cut may undo", said), gateway.log()
        more()
    assert gateway.stop() == 0
    assert not gateway.saw("did not end in time"), gateway.log()


@pytest.mark.parametrize("how", ["eio", "enospc", "erofs", "torn", "nosync"])
def test_what_is_measured_while_the_disk_fails_waits_in_memory_and_arrives(
        how, make_gateway, begin, witness, cloud, cable, port, shim, tmp_path):
    gateway, disk, near = offline(make_gateway, begin, witness, cable, port, shim, tmp_path)
    disk.fails(how)
    spool = eventually(lambda: (s := gateway.status()["spool"])["error"] and s, hoped="the fault is in the status")
    assert "wait in memory" in spool["error"] and gateway.saw("wait in memory"), spool
    before = near.total
    eventually(lambda: near.total > before + 300, hoped="polling goes on")
    adds_up(gateway)
    disk.mend()
    eventually(lambda: not gateway.status()["spool"]["error"], hoped="the disk is used again")
    adds_up(gateway)
    truth = values_at(near, "plant/meter/")
    far = witness(cloud.port, "sites/plant/#")
    cable.mend()
    eventually(lambda: not arrived(truth, values_at(far, "sites/plant/meter/")), within=30, hoped="all of it arrives")
    for point, seen in values_at(far, "sites/plant/meter/").items():
        numbers = [json.loads(p)["value"] for p in seen]
        assert numbers == sorted(set(numbers)), f"{point}: not in order, or not once"
    ledger = adds_up(gateway)
    assert (ledger["damaged"], ledger["evicted"], ledger["expired"]) == (0, 0, 0), ledger


@pytest.mark.parametrize("how", ["torn", "nosync"])
def test_a_kill_while_the_disk_fails_costs_only_what_was_not_written(
        how, make_gateway, begin, witness, cloud, cable, port, shim, tmp_path):
    gateway, disk, near = offline(make_gateway, begin, witness, cable, port, shim, tmp_path)
    written = gateway.status()["spool"]["on_disk"]
    disk.fails(how)
    eventually(lambda: gateway.status()["spool"]["error"], hoped="the fault is in the status")
    gateway.kill()
    disk.mend()
    gateway.start()
    ledger = adds_up(gateway)
    assert ledger["stored"] >= written and gateway.status()["spool"]["set_aside"] is None, ledger
    far = witness(cloud.port, "sites/plant/#")
    cable.mend()
    eventually(lambda: gateway.status()["spool"]["backlog"]["cloud"] == 0 or far.total > written + 500,
               hoped="the backlog is sent")
    for point, seen in values_at(far, "sites/plant/meter/").items():
        numbers = [json.loads(p)["value"] for p in seen]
        assert numbers == sorted(set(numbers)), f"{point}: not in order, or not once"
    assert adds_up(gateway)["damaged"] == 0
