"""Waiting for events. Nothing here guesses how long something takes: a condition is looked at until it holds, and a
deadline only says when to give up and what was hoped for."""

import socket
import time


class NeverHappened(AssertionError):
    """The deadline passed."""


def eventually(look, within=20.0, hoped="it", every=0.02):
    """Looks until `look()` returns something true, and returns it. Errors while looking count as "not yet"."""
    deadline = time.monotonic() + within
    last = None
    while True:
        try:
            found = look()
            if found:
                return found
            last = f"last look: {found!r}"
        except (OSError, ValueError, LookupError, TypeError) as error:
            last = f"last error: {error!r}"
        if time.monotonic() >= deadline:
            raise NeverHappened(f"{hoped}: not within {within:g} s ({last[:2000]})")
        time.sleep(every)


def free_port():
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
