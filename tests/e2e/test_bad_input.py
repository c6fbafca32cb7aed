"""What a person gets wrong, and what the program says then: where, which value, which limit, what to do."""

import contextlib
import os
import pathlib
import pty
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile

import pytest

from gateway import BINARY
from waiting import eventually

GOOD = """gateway: plant
lines:
  hall: {tcp: 127.0.0.1:1502}
devices:
  - name: meter
    line: hall
    unit_id: 1
    points:
      voltage: {input: 0, type: f32, every: 1s}
broker:
  listen: [{tcp: 127.0.0.1:18830}]
"""

# name of the case: (what is replaced, by what, line of the problem, words that must be said)
CASES = {
    "a YAML error": ("  hall: {tcp: 127.0.0.1:1502}", "  hall: {tcp: 127.0.0.1:1502", None, []),
    "a tab": ("    line: hall", "\tline: hall", 6, ["tab"]),
    "an unknown key": ("line: hall", "lien: hall", 6, ["lien", "line"]),
    "an unknown key in a point": ("type: f32", "typ: f32", 9, ["typ", "type"]),
    "a key twice": ("    line: hall", "    line: hall\n    line: hall", 7, ["line"]),
    "a line that does not exist": ("line: hall", "line: hal", 6, ["hal", "hall"]),
    "a profile that does not exist": ("    unit_id: 1\n", "    unit_id: 1\n    profile: eastron/sdm12\n", 8,
                                      ["eastron/sdm12", "eastron/sdm120"]),
    "the same unit id twice": ("broker:", "  - {name: other, line: hall, unit_id: 1, points: {a: {input: 1}}}\nbroker:",
                               10, ["unit", "1", "meter"]),
    "the same device name twice": ("broker:", "  - {name: meter, line: hall, unit_id: 2, points: {a: {input: 1}}}\nbroker:",
                                   10, ["meter"]),
    "the same point name twice": ("broker:", "      voltage: {input: 4, type: f32}\nbroker:", 10, ["voltage"]),
    "an address outside the table": ("input: 0", "input: 65535", 9, ["65535"]),
    "an address that is none": ("input: 0", "input: 70000", 9, ["70000", "65535"]),
    "a unit id that is none": ("unit_id: 1", "unit_id: 300", 7, ["300"]),
    "unit id zero": ("unit_id: 1", "unit_id: 0", 7, ["broadcast"]),
    "a period of zero": ("every: 1s", "every: 0s", 9, ["0s"]),
    "a duration without unit": ("every: 1s", "every: 5", 9, ["5s"]),
    "an unknown type": ("type: f32", "type: float", 9, ["float", "f32"]),
    "two addresses": ("input: 0", "input: 0, holding: 0", 9, ["input", "holding"]),
    "no address": ("input: 0, ", "", 9, ["voltage"]),
    "a name with a wildcard": ("voltage:", '"volt/+":', 9, ["volt/+"]),
    "a secret in the file": ("broker:", "upstreams:\n  c: {url: mqtt://h, password: hunter2}\nbroker:", 11, ["file", "env"]),
}


@pytest.mark.parametrize("case", CASES)
def test_check_says_where_what_and_what_to_do(case, make_gateway):
    old, new, line, words = CASES[case]
    assert old in GOOD
    gateway = make_gateway(GOOD.replace(old, new, 1))
    done = gateway.command("check", "-c", gateway.config)
    said = done.stdout + done.stderr
    assert done.returncode == 78, said
    assert "panicked" not in said
    assert "gateway.yaml:" in said, said
    if line:
        assert re.search(rf"gateway\.yaml:{line}:\d+", said), said
    for word in words:
        assert word.lower() in said.lower(), f"no `{word}` in:\n{said}"
    assert "hunter2" not in said


def test_check_accepts_what_is_right_and_says_what_would_run(make_gateway):
    gateway = make_gateway(GOOD)
    done = gateway.command("check", "-c", gateway.config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 device" in done.stdout + done.stderr


def test_check_tells_every_problem_at_once(make_gateway):
    text = GOOD.replace("line: hall", "line: hal").replace("unit_id: 1", "unit_id: 300").replace("every: 1s", "every: 0s")
    gateway = make_gateway(text)
    done = gateway.command("check", "-c", gateway.config)
    said = done.stdout + done.stderr
    for line in (6, 7, 9):
        assert re.search(rf"gateway\.yaml:{line}:\d+", said), said


def test_a_file_that_is_not_there_is_named(make_gateway):
    gateway = make_gateway(GOOD)
    done = gateway.command("check", "-c", gateway.folder / "nope.yaml")
    assert done.returncode == 78 and "nope.yaml" in done.stdout + done.stderr


def test_run_refuses_what_check_refuses(make_gateway):
    gateway = make_gateway(GOOD.replace("every: 1s", "every: 0s"))
    gateway.start(ready=False)
    assert gateway.exit_code() == 78
    assert "gateway.yaml:9:" in gateway.log()


def test_an_unknown_command_is_a_usage_error(make_gateway):
    gateway = make_gateway(GOOD)
    assert gateway.command("rnu").returncode == 64


def test_the_shipped_example_passes(make_gateway):
    from gateway import ROOT

    gateway = make_gateway(GOOD)
    done = gateway.command("check", "-c", ROOT / "config/gateway.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broker_port_that_is_taken_is_named(make_gateway):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        gateway = make_gateway(GOOD.replace("18830", str(port)))
        gateway.start(ready=False)
        assert gateway.exit_code() == 1, gateway.log()
        assert str(port) in gateway.log() and "panicked" not in gateway.log()


UPSTREAM = "upstreams:\n  cloud: {url: mqtt://127.0.0.1:1, send: [{filter: \"#\"}]}\nspool: {keep: always}\n"


def test_a_database_from_a_newer_version_is_left_untouched(make_gateway, port):
    gateway = make_gateway(GOOD.replace("18830", str(port)) + UPSTREAM)
    gateway.start()
    database = gateway.state / "spool.db"
    eventually(database.exists, hoped="the spool's database exists")
    gateway.stop()
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()
    before = database.read_bytes()
    gateway.start(ready=False)
    assert gateway.exit_code() not in (0, None), gateway.log()
    assert "newer" in gateway.log() and "spool.db" in gateway.log(), gateway.log()
    assert database.read_bytes() == before


def test_a_torn_database_is_set_aside_and_the_gateway_goes_on(make_gateway, port):
    gateway = make_gateway(GOOD.replace("18830", str(port)) + UPSTREAM)
    gateway.state.mkdir(exist_ok=True)
    (gateway.state / "spool.db").write_bytes(os.urandom(64 * 1024))
    gateway.start()
    assert gateway.saw("spool.db"), gateway.log()
    kept = [p for p in gateway.state.iterdir() if p.name.startswith("spool.db") and p.stat().st_size == 64 * 1024]
    assert kept, list(gateway.state.iterdir())


def test_a_gateway_started_twice_is_told_so_and_the_first_runs_on(make_gateway, port):
    gateway = make_gateway(GOOD.replace("18830", str(port))).start()
    again = gateway.command("run", "-c", gateway.config, "--socket", gateway.socket)
    assert again.returncode == 1 and "another trunkline is running" in again.stderr, again.stderr
    # With a socket of its own it is the databases that say so.
    again = gateway.command("run", "-c", gateway.config, "--socket", gateway.run_dir / "other.sock")
    assert again.returncode == 1 and "does another trunkline run?" in again.stderr, again.stderr
    assert gateway.status()["gateway"] == "plant"


def test_a_state_directory_that_cannot_be_made_is_named_with_the_command(make_gateway, port):
    gateway = make_gateway(GOOD.replace("18830", str(port)))
    shutil.rmtree(gateway.state)
    gateway.start()
    assert gateway.state.is_dir(), "a missing one is made"
    gateway.stop()
    gateway.variables = {"STATE_DIRECTORY": "/proc/trunkline"}
    gateway.start(ready=False)
    assert gateway.exit_code() == 1
    assert gateway.saw("the state directory /proc/trunkline cannot be used", "sudo install -d"), gateway.log()


def test_a_credential_that_is_missing_is_named_with_the_line_of_the_unit(make_gateway):
    upstream = "upstreams:\n  c: {url: mqtts://h, password: {credential: cloud}, send: [{filter: '#'}]}\n"
    gateway = make_gateway(GOOD + upstream)
    place = f"{gateway.config}:13:"
    without = {name: value for name, value in gateway.environment().items() if name != "CREDENTIALS_DIRECTORY"}
    for environment in (without, {**without, "CREDENTIALS_DIRECTORY": str(gateway.run_dir)}):
        done = subprocess.run([BINARY, "run", "-c", gateway.config], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 78 and place in done.stderr, done.stderr
        assert "no credential `cloud`" in done.stderr and "LoadCredential=cloud:" in done.stderr, done.stderr
    (gateway.run_dir / "cloud").write_text("hunter2\n")
    done = subprocess.run([BINARY, "check", "-c", gateway.config], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and "hunter2" not in done.stdout + done.stderr, done.stderr


def test_books_that_are_torn_are_set_aside_by_name(make_gateway, port):
    gateway = make_gateway(GOOD.replace("18830", str(port)))
    (gateway.state / "ledger.json").write_text('{"total": {"pol')
    (gateway.state / "failsafe.json").write_text("[{")
    gateway.start()
    gateway.stop()
    for name, text in (("ledger.json", '{"total": {"pol'), ("failsafe.json", "[{")):
        assert gateway.saw(name, "set aside as", f"{name}.set-aside-1"), gateway.log()
        assert (gateway.state / f"{name}.set-aside-1").read_text() == text
    gateway.start()
    assert not gateway.saw("set aside"), "said once"


class Nobody:
    """A user without rights, in a folder that he may enter; whoever runs the tests has too many."""

    ID = 65534

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tl-nobody-"))
        os.chmod(self.folder, 0o755)
        # By its handle, because the folder it was built in may be closed to him.
        self.binary = os.open(BINARY, os.O_RDONLY)

    def run(self, *arguments, **environment):
        return subprocess.Popen(
            ["trunkline", *map(str, arguments)], executable=f"/proc/self/fd/{self.binary}", pass_fds=[self.binary],
            user=self.ID, group=self.ID, extra_groups=[], cwd=self.folder, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "NO_COLOR": "1", **environment})

    def says(self, *arguments, **environment):
        with self.run(*arguments, **environment) as process:
            said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def own(self, name):
        path = self.folder / name
        path.mkdir()
        os.chown(path, self.ID, self.ID)
        return path

    def write(self, text, mode=0o644):
        path = self.folder / "gateway.yaml"
        path.write_text(text)
        os.chmod(path, mode)
        return path

    def stop(self):
        os.close(self.binary)
        shutil.rmtree(self.folder)


@pytest.fixture
def nobody(begin):
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    return begin(Nobody())


def test_a_configuration_that_this_user_may_not_read_is_said_to_be_that(nobody):
    config = nobody.write(GOOD, 0o600)
    code, said = nobody.says("check", "-c", config)
    assert code == 78 and "Permission denied" in said and "sudo" in said and "-c" not in said, said


def test_a_state_directory_of_somebody_else_is_named(nobody):
    state = nobody.folder / "state"
    state.mkdir()
    config = nobody.write(GOOD)
    code, said = nobody.says("run", "-c", config, "--socket", nobody.own("run") / "s", STATE_DIRECTORY=str(state))
    assert code == 1 and f"the state directory {state} cannot be used" in said and "STATE_DIRECTORY" in said, said


def test_databases_that_root_has_left_behind_are_named_with_the_command(nobody, make_gateway, port):
    gateway = make_gateway(GOOD.replace("18830", str(port)), state=nobody.folder / "state")
    gateway.start()
    gateway.stop()
    os.chown(gateway.state, Nobody.ID, Nobody.ID)
    config = nobody.write(gateway.config.read_text())
    code, said = nobody.says("run", "-c", config, "--socket", nobody.own("run") / "s", STATE_DIRECTORY=str(gateway.state))
    assert code == 1 and "sudo chown --reference=" in said and "spool.db" in said, said


def test_a_serial_port_without_permission_names_its_group_and_the_command(nobody, port):
    _, near = pty.openpty()
    path = os.ttyname(near)
    os.chown(path, 0, 20)
    os.chmod(path, 0o660)
    config = nobody.write(GOOD.replace("18830", str(port)).replace("{tcp: 127.0.0.1:1502}", f"{{serial: {path}, baud: 9600, format: 8N1}}"))
    socket_path = nobody.own("run") / "s"
    with nobody.run("run", "-c", config, "--socket", socket_path, STATE_DIRECTORY=str(nobody.own("state"))) as process:
        said = next(line for line in process.stdout if "no permission" in line)
        process.terminate()
    assert path in said and re.search(r"it belongs to group (\w+); sudo usermod -aG \1 ", said), said


def test_who_may_not_write_beside_the_configuration_cannot_confirm_and_nothing_is_lost(nobody, make_gateway, port):
    gateway = make_gateway(GOOD.replace("18830", str(port)))
    os.chmod(gateway.folder.parent, 0o755)
    gateway.start()
    os.chmod(gateway.run_dir, 0o755)
    os.chmod(gateway.socket, 0o666)
    new = nobody.write(gateway.config.read_text().replace("every: 1s", "every: 2s"))
    os.chmod(gateway.config, 0o644)
    code, said = nobody.says("apply", new, "--confirm", "10m", "--socket", gateway.socket)
    assert code == 0, said
    code, said = nobody.says("confirm", "--socket", gateway.socket)
    assert code == 1 and ("cannot be read" in said or "cannot be written" in said) and "sudo trunkline confirm" in said, said
    assert gateway.status()["config"]["outcome"] == "pending", "the trial goes on"
    assert "every: 1s" in gateway.config.read_text()
    assert gateway.ask("confirm").returncode == 0
    assert "every: 2s" in gateway.config.read_text()


class Mounted:
    """A folder that is read-only, or on a disk of its own that is nearly full."""

    def __init__(self, folder, *options):
        self.folder = folder
        if os.geteuid() != 0:
            pytest.skip("only root can mount")
        subprocess.run(["mount", *options, folder], check=True)

    def fill(self):
        with contextlib.suppress(OSError), open(self.folder / "fill", "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def stop(self):
        subprocess.run(["umount", "--lazy", self.folder], check=True)


def test_where_etc_is_read_only_it_runs_and_says_how_a_trial_could_be_kept(make_gateway, begin, port):
    gateway = make_gateway(GOOD.replace("18830", str(port)))
    gateway.state = gateway.run_dir / "state"
    begin(Mounted(gateway.folder, "--bind", gateway.folder))
    subprocess.run(["mount", "-o", "remount,ro,bind", gateway.folder], check=True)
    gateway.start()
    new = gateway.run_dir / "new.yaml"
    new.write_text(gateway.config.read_text().replace("every: 1s", "every: 2s"))
    done = gateway.ask("apply", new)
    assert done.returncode == 1 and "Read-only file system" in done.stderr and "remount,rw" in done.stderr, done
    assert done.stderr.rstrip().endswith("it was taken back") and "sudo trunkline" not in done.stderr, done
    assert gateway.status()["config"]["outcome"] == "reverted"
    assert gateway.ask("apply", new, "--confirm", "10m").returncode == 0
    assert "remount,rw" in gateway.ask("confirm").stderr
    assert gateway.status()["config"]["outcome"] == "pending", "the trial goes on"
    assert gateway.ask("revert").returncode == 0
    assert "every: 1s" in gateway.config.read_text()


def test_a_full_disk_costs_neither_the_configuration_nor_the_one_before(make_gateway, begin, port):
    gateway = make_gateway(GOOD.replace("18830", str(port)))
    text = gateway.config.read_text()
    gateway.state = gateway.run_dir / "state"
    disk = begin(Mounted(gateway.folder, "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs"))
    gateway.config.write_text(text)
    gateway.start()
    new = gateway.run_dir / "new.yaml"
    new.write_text(text.replace("every: 1s", "every: 2s"))
    assert gateway.ask("apply", new).returncode == 0
    before = gateway.folder / "gateway.yaml.before"
    assert "every: 1s" in before.read_text()
    disk.fill()
    new.write_text(text.replace("every: 1s", "every: 3s"))
    done = gateway.ask("apply", new)
    assert done.returncode == 1 and "No space left" in done.stderr and "make room there" in done.stderr, done
    assert "every: 2s" in gateway.config.read_text() and "every: 1s" in before.read_text()
    assert {path.name for path in gateway.folder.iterdir()} == {"gateway.yaml", "gateway.yaml.before", "fill"}
    (gateway.folder / "fill").unlink()
    assert gateway.ask("apply", new).returncode == 0
    assert "every: 3s" in gateway.config.read_text() and "every: 2s" in before.read_text()


def test_a_broker_file_that_cannot_be_written_is_what_somebody_must_come_for(make_gateway, begin, witness, port):
    gateway = make_gateway(GOOD.replace("18830", str(port)))
    disk = begin(Mounted(gateway.state, "-t", "tmpfs", "-o", "size=1m", "tmpfs"))
    gateway.start()
    disk.fill()
    near = witness(port, "x")
    for n in range(100):
        near.client.publish(f"kept/{n}", "x" * 1000, qos=1, retain=True)
    what = "what the broker keeps (sessions, retained messages) cannot be written"
    done = eventually(lambda: what in (done := gateway.ask("status")).stdout and done, hoped="the full disk is told")
    assert done.returncode == 2, done
    (gateway.state / "fill").unlink()
    eventually(lambda: what not in gateway.ask("status").stdout, hoped="it is written again")


def test_a_port_that_this_user_may_not_open_is_named(nobody):
    if int(pathlib.Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("on this machine everybody may open every port")
    config = nobody.write(GOOD.replace("18830", "80"))
    code, said = nobody.says("run", "-c", config, "--socket", nobody.own("run") / "s", STATE_DIRECTORY=str(nobody.own("state")))
    assert code == 1 and "127.0.0.1:80" in said and "below 1024" in said and "broker.listen" in said, said


def test_a_file_that_the_gateway_may_not_read_any_more_changes_nothing_and_the_command_is_named(nobody, port):
    config = nobody.write(GOOD.replace("18830", str(port)))
    control = nobody.own("run") / "s"
    ask = lambda *what: subprocess.run([BINARY, *what, "--socket", control], capture_output=True, text=True, check=False)  # noqa: E731
    with nobody.run("run", "-c", config, "--socket", control, STATE_DIRECTORY=str(nobody.own("state"))) as process:
        try:
            eventually(lambda: "meter" in ask("status").stdout, hoped="it runs")
            # What an editor that was called by sudo leaves behind.
            os.chmod(config, 0o600)
            done = ask("reload")
            assert done.returncode == 78 and "Permission denied" in done.stderr, done
            assert f"sudo chown root:trunkline {config}; sudo chmod 640 {config}" in done.stderr, done
            assert "note: the last configuration was refused" in ask("status").stdout
            os.chmod(config, 0o644)
            assert ask("reload").returncode == 0 and "refused" not in ask("status").stdout
        finally:
            process.terminate()


def test_an_empty_secret_is_told_with_its_line_and_what_to_do(make_gateway):
    """`touch` and a power cut leave such a file; an unset variable of a unit is such a text."""
    upstream = "upstreams:\n  c: {{url: mqtts://h, username: u, password: {{{}}}, send: [{{filter: '#'}}]}}\n"
    folder = make_gateway("gateway: g\n").folder
    for text in ("", "\n", " \r\n"):
        (folder / "cloud.password").write_text(text)
        (folder / "cloud").write_text(text)
        for where, words in (
            ("file: cloud.password", ["cloud.password is empty", "write the secret into it"]),
            ("env: CLOUD_PASSWORD", ["`CLOUD_PASSWORD`", "is empty", "EnvironmentFile="]),
            ("credential: cloud", ["credential `cloud` is empty", "LoadCredential="]),
        ):
            gateway = make_gateway("gateway: g\n" + upstream.format(where))
            (gateway.folder / "cloud.password").write_text(text)
            env = {**gateway.environment(), "CLOUD_PASSWORD": text.strip(), "CREDENTIALS_DIRECTORY": str(folder)}
            done = subprocess.run(
                [BINARY, "check", "-c", gateway.config], capture_output=True, text=True, env=env, timeout=60, check=False
            )
            assert done.returncode == 78 and "gateway.yaml:3:" in done.stderr, done
            assert all(word in done.stderr for word in words), done.stderr
