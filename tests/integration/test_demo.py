"""`load_balancer.py demo` as a newcomer starts it, on ports of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_until
from harness.balancer import environment, free_port
from harness.timing import PATIENT

PROGRAM = Path(__file__).parents[2] / "load_balancer.py"


class Demo:
    """A running demo: the two streams it writes, and its three ports."""

    def __init__(self, at: Path) -> None:
        self.port, *self.backends = (free_port() for _ in range(3))
        servers = [f"http://127.0.0.1:{port}" for port in self.backends]
        config = at / "config.json"
        config.write_text(json.dumps({"port": self.port, "workers": 1, "servers": servers}))
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "demo"],
            cwd=at,
            env=environment(LB_CONFIG="config.json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._readers = [
            threading.Thread(target=self._read, args=(name,), daemon=True) for name in self.lines
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        with getattr(self.process, name) as stream:
            self.lines[name].extend(stream)  # as they come

    @property
    def guide(self) -> str:
        return "".join(self.lines["stderr"])

    def wait_until_started(self) -> None:
        wait_until(lambda: "Ctrl-C" in self.guide or self.process.poll() is not None, PATIENT)
        assert "Ctrl-C" in self.guide, self.guide

    def get(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=PATIENT) as answer:
            seen: dict[str, Any] = json.load(answer)
            return seen

    def all_gone(self) -> bool:
        return not any(listening(port) for port in (self.port, *self.backends))

    def finish(self) -> int:
        """The exit status, once both streams have ended: nobody holds them any more."""
        status = self.process.wait(PATIENT)
        for reader in self._readers:
            reader.join(PATIENT)
            assert not reader.is_alive(), "a process that the demo started is still there"
        return status


def listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    started = Demo(tmp_path)
    try:
        started.wait_until_started()
        yield started
    finally:
        started.process.kill()
        started.finish()


def test_requests_go_to_both_backends_and_the_log_is_json(demo: Demo) -> None:
    """Equal shares of real answers, a guide on standard error, only JSON on standard output."""
    answers = [demo.get()["backend"] for _ in range(6)]
    assert sorted(answers) == sorted(f"127.0.0.1:{port}" for port in demo.backends * 3)
    demo.process.send_signal(signal.SIGTERM)
    assert demo.finish() == 0
    assert demo.all_gone()
    loggers = [json.loads(line)["logger"] for line in demo.lines["stdout"]]
    assert loggers.count("access") == 6


def test_nothing_is_left_of_a_killed_demo(demo: Demo) -> None:
    """SIGKILL gives no time to clean up: the kernel ends what the demo had started."""
    demo.process.kill()
    wait_until(demo.all_gone, PATIENT)


def test_a_backend_that_dies_costs_no_request(demo: Demo) -> None:
    """The guide says so and gives the command; the demo says that it will be back."""
    pid = re.search(r"^  kill (\d+) ", demo.guide, re.MULTILINE)
    assert pid, demo.guide
    os.kill(int(pid[1]), signal.SIGTERM)
    wait_until(lambda: "is gone; it will be back" in demo.guide, PATIENT)
    survivor = f"127.0.0.1:{demo.backends[1]}"
    assert {demo.get()["backend"] for _ in range(6)} == {survivor}


@pytest.mark.parametrize("which", ["balancer", "backend"])
def test_a_taken_port_is_named_with_its_remedy(tmp_path: Path, which: str) -> None:
    """Nothing is started, nothing is on standard output, and the message names the port."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.create_server(("127.0.0.1", 0)) as s,
    ):
        port, free = taken.getsockname()[1], s.getsockname()[1]
        s.close()
        balancer, backend = (port, free) if which == "balancer" else (free, port)
        config = {"port": balancer, "servers": [f"http://127.0.0.1:{backend}"]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        ended = subprocess.run(
            [sys.executable, str(PROGRAM), "demo"],
            cwd=tmp_path,
            env=environment(LB_CONFIG="config.json"),
            capture_output=True,
            text=True,
            timeout=PATIENT,
        )
    remedy = "LB_PORT=" if which == "balancer" else "change its url"
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"port {port} " in ended.stderr
    assert remedy in ended.stderr
