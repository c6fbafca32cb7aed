"""A real browser without a screen, and the pages it is given; what a page reports comes back as an event."""

import functools
import http.server
import json
import queue
import shutil
import subprocess
import threading

# Debian's names; the first is a third of the second.
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser"))), None)


class Pages:
    """Serves files by name on a port of its own, and takes what a page posts to /report."""

    def __init__(self, files):
        self.files = files
        self.reports = queue.Queue()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Visit, self))
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def start(self):
        self.thread.start()
        return self

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


class Visit(http.server.BaseHTTPRequestHandler):
    def __init__(self, pages, *rest):
        self.pages = pages
        super().__init__(*rest)

    def do_GET(self):
        name = self.path.split("?")[0].lstrip("/")
        path = self.pages.files.get(name)
        self.send_response(200 if path else 404)
        self.send_header("Content-Type", "text/html" if name.endswith(".html") else "text/javascript")
        self.end_headers()
        self.wfile.write(path.read_bytes() if path else b"")

    def do_POST(self):
        self.pages.reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Browser:
    """Opens one page and stays there until it is stopped."""

    def __init__(self, folder, url):
        assert BROWSER, "no Chromium is installed; tests/run installs it"
        # Root may run it without its sandbox only. A debugging port keeps it open.
        self.command = [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--remote-debugging-port=0", f"--user-data-dir={folder}", url,
        ]
        self.log = folder.parent / "browser.log"
        self.process = None

    def start(self):
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
