"""A backend in a process of its own, so that it can be stopped, continued and killed as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from .balancer import free_port
from .client import Client
from .timing import wait_until

# ``/seconds/0.5`` is answered after that time, ``/health`` and everything else at once. A connection may
# begin with a header of the PROXY protocol, version 1.
SERVER = r"""
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def handle(self):
        if self.rfile.peek(6)[:6] == b"PROXY ":
            self.rfile.readline()
        super().handle()

    def do_GET(self):
        if self.path.startswith("/seconds/"):
            time.sleep(float(self.path.split("/")[2]))
        body = str(self.server.server_port).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class SeparateBackend:
    """A small HTTP/1.1 server under its own pid; answers its port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SeparateBackend:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"<SeparateBackend {self.address}>"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = (sys.executable, "-IS", "-c", SERVER, str(self.port))
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(self._answers)

    def stop(self) -> None:
        """SIGSTOP: it neither answers nor refuses any more."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, which a stopped process gets too."""
        self._send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _answers(self) -> bool:
        try:
            with Client(("127.0.0.1", self.port)) as client:
                return client.get("/").status == 200
        except (OSError, AssertionError):
            return False
