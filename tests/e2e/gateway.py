"""The program under test as a process: configuration in, exit code, log and control socket out."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import threading

from waiting import eventually

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("TRUNKLINE_BINARY", ROOT / "target/debug/trunkline"))
if not BINARY.is_absolute():
    BINARY = ROOT / BINARY


class Gateway:
    """One configuration in one folder. `start` and `kill` may follow each other: the state stays where it is."""

    def __init__(self, folder, text, state=None):
        self.folder = pathlib.Path(folder)
        self.config = self.folder / "gateway.yaml"
        self.state = pathlib.Path(state) if state else self.folder / "state"
        # A socket's path may have 107 bytes; a test's folder alone can be longer.
        self.run_dir = pathlib.Path(tempfile.mkdtemp(prefix="tl-"))
        self.socket = self.run_dir / "control.sock"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)
        self.process = None
        self.lines = []
        # More of the environment of `start`, for a test that puts something between the program and the system.
        self.variables = {}

    def command(self, *arguments, stdin=None, timeout=60):
        """Runs `trunkline …` to its end."""
        return subprocess.run(
            [BINARY, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=timeout,
            env=self.environment(), cwd=self.folder, check=False,
        )

    def environment(self):
        return {
            **os.environ, "STATE_DIRECTORY": str(self.state), "RUNTIME_DIRECTORY": str(self.run_dir),
            "NO_COLOR": "1", "RUST_BACKTRACE": "1",
        }

    def start(self, ready=True, **popen):
        binary = popen.pop("binary", BINARY)
        self.lines = []
        self.process = subprocess.Popen(
            [binary, "run", "-c", self.config, "--socket", self.socket], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**self.environment(), **self.variables},
            cwd=self.folder, **popen,
        )
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True)
        self.reader.start()
        if ready:
            eventually(self._answers, within=30, hoped=f"the gateway answers on its control socket\n{self.log()}")
        return self

    @staticmethod
    def _read(stream, lines):
        for line in stream:
            lines.append(line.rstrip("\n"))

    def _answers(self):
        assert self.process.poll() is None, f"the gateway ended with {self.process.returncode}:\n{self.log()}"
        return self.status()

    def log(self):
        return "\n".join(self.lines)

    def saw(self, *words):
        """Whether one line of the log has all these words."""
        return any(all(word.lower() in line.lower() for word in words) for line in list(self.lines))

    def ask(self, command, *arguments):
        """A command for the running gateway, to its end."""
        return self.command(command, *arguments, "--socket", self.socket)

    def status(self):
        """`trunkline status --json`, or None while nobody answers."""
        done = self.command("status", "--json", "--socket", self.socket)
        return json.loads(done.stdout) if done.stdout else None

    def hang_up(self):
        """What `systemctl reload` does without a command of its own."""
        self.process.send_signal(signal.SIGHUP)

    def upstream(self, name="cloud"):
        return next(u for u in self.status()["upstreams"] if u["name"] == name)

    def device(self, name):
        return [d for line in self.status()["lines"] for d in line["devices"] if d["name"] == name][0]

    def connected(self):
        return eventually(lambda: self.upstream()["state"] == "connected", hoped="the upstream is connected")

    def exit_code(self, within=20):
        code = self.process.wait(within)
        self.reader.join(5)
        return code

    def kill(self):
        """What a power cut looks like to the process."""
        self.process.send_signal(signal.SIGKILL)
        return self.exit_code()

    def stop(self):
        """What the service manager does."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.exit_code(15)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"the gateway did not stop within 15 s:\n{self.log()}") from None
        return self.process.returncode if self.process else None
