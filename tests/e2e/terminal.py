"""A terminal of a given size, in which a command of ours runs as a person would see it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import threading

from gateway import BINARY


class Terminal:
    def __init__(self, columns, rows, *arguments, **popen):
        self.near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.far = far
        self.before = termios.tcgetattr(far)
        self.output = b""
        # A session of its own with this as its terminal: Ctrl-C is a signal only there.
        self.process = subprocess.Popen(
            [BINARY, *map(str, arguments)], stdin=far, stdout=far, stderr=far, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), **popen)
        self.wake, self.waker = os.pipe()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        while True:
            readable, _, _ = select.select([self.near, self.wake], [], [])
            if self.near in readable:
                self.output += os.read(self.near, 65536)
            elif self.wake in readable:
                return

    def text(self):
        return self.output.decode(errors="replace").replace("\r\n", "\n")

    def type(self, keys):
        os.write(self.near, keys)

    def ended(self, within=20):
        """How it ended, when all that it wrote has been read."""
        code = self.process.wait(within)
        os.write(self.waker, b"x")
        self.thread.join(10)
        return code

    def is_as_before(self):
        """Echo, line by line, signals: nothing was switched and left."""
        return termios.tcgetattr(self.far) == self.before

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.ended()
        for handle in (self.near, self.far, self.wake, self.waker):
            os.close(handle)
