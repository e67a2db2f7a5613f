"""The same cases against other products: ``python -m replay.peers`` prints a table by class.

Each is set up to forward everything to one backend over HTTP/1.1 with keep-alive, Host kept, no buffering
of requests, and otherwise as it comes. Four outcomes: *as stated* in the case · *stricter*, it refuses what
the case lets through · *laxer*, it lets through what the case refuses, as it came or mended on the way ·
*other*, the same decision in other words (another status, fields changed, closed without an answer).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from . import corpus, online
from .corpus import Case
from .judge import Transcript, judge

ROOT = Path(__file__).parents[3]
PATIENCE = 0.4

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  upstream backend {{ server 127.0.0.1:{backend}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_request_buffering off;
      proxy_next_upstream off;
    }}
  }}
}}
"""

HAPROXY = """
global
  maxconn 512
defaults
  mode http
  timeout connect 2s
  timeout client 5s
  timeout server 5s
  timeout http-request 5s
  retries 0
frontend in
  bind 127.0.0.1:{port}
  default_backend out
backend out
  http-reuse safe
  server one 127.0.0.1:{backend}
"""


def outcome(case: Case, transcript: Transcript, problems: list[str]) -> str:
    """One of the four words."""
    if not problems:
        return "as stated"
    wanted = sum(o.kind == "forwarded" for o in case.outcomes)
    if case.is_about_responses:
        is_refused = transcript.client.startswith((b"HTTP/1.1 50", b"HTTP/1.0 50"))
        if case.outcomes[0].kind == "refused":
            return "other" if is_refused or not transcript.client else "laxer"
        if case.outcomes[0].kind in ("cut", "broken"):
            is_whole = bool(transcript.client) and any("not cut" in p for p in problems)
            return "laxer" if is_whole else "other"
        return "stricter" if is_refused else "other"
    try:
        seen = len(transcript.requests())
    except AssertionError:
        return "laxer"  # what it forwards has no single reading
    if seen > wanted:
        return "laxer"
    return "stricter" if seen < wanted else "other"


@contextlib.contextmanager
def _started(command: list[str], port: int, env: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        limit = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                if not online.follow_up(("127.0.0.1", port)):
                    break
            if time.monotonic() > limit or process.poll() is not None:
                raise RuntimeError(f"did not start: {command}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(product: str, backend: int) -> Iterator[int]:
    """Run a product in front of the backend's port; its own port. ``gevent`` is ours under -k gevent."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="wire-peers-") as folder:
        path = Path(folder) / "config"
        env: dict[str, str] = {}
        if product in ("ours", "gevent"):
            config = {
                "servers": [f"http://127.0.0.1:{backend}"],
                "workers": 1,
                "health_check": False,
            }
            path.write_text(json.dumps({**config, "retries": {"attempts": 1}}), encoding="utf-8")
            env = {"LB_CONFIG": str(path), "LB_PORT": str(port), "LB_HOST": "127.0.0.1"}
            command = [
                sys.executable,
                "-m",
                "gunicorn",
                "-c",
                "gunicorn.conf.py",
                "app:application",
                *(["-k", "gevent"] if product == "gevent" else []),
            ]
        else:
            template = NGINX if product == "nginx" else HAPROXY
            text = template.format(folder=folder, port=port, backend=backend)
            path.write_text(text, encoding="utf-8")
            binary = shutil.which(product)
            assert binary, f"{product} is not installed"
            flags = (
                ["-c", str(path), "-p", folder] if product == "nginx" else ["-db", "-f", str(path)]
            )
            command = [binary, *flags]
        with _started(command, port, env):
            yield port


def main() -> int:
    """Print the table; with -v also every case that is not as stated."""
    parser = argparse.ArgumentParser(prog="replay.peers", description=__doc__)
    parser.add_argument("products", nargs="*", default=["ours", "nginx", "haproxy"])
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("-k", default="", help="only cases whose name holds this")
    options = parser.parse_args()
    cases = [
        case
        for case in corpus.load()
        if options.k in str(case) and case.settings.get("peers") != "skip"
    ]
    results: dict[str, dict[str, Counter[str]]] = {}
    for product in options.products:
        results[product] = run(product, cases, options.verbose)
    words = ("as stated", "stricter", "laxer", "other")
    width = max(len(case.group) for case in cases)
    sys.stdout.write(f"{'class':{width}} {'cases':>6}")
    for product in options.products:
        sys.stdout.write(f" | {product}: stated stricter laxer other")
    sys.stdout.write("\n")
    groups = sorted({case.group for case in cases})
    for group in [*groups, "all"]:
        count = sum(case.group == group or group == "all" for case in cases)
        sys.stdout.write(f"{group:{width}} {count:6}")
        for product in options.products:
            found = results[product]
            total = sum(found.values(), Counter()) if group == "all" else found[group]
            numbers = " ".join(f"{total[word]:>6}" for word in words)
            sys.stdout.write(f" | {' ' * (len(product) - 1)}{numbers}")
        sys.stdout.write("\n")
    return 0


def run(product: str, cases: list[Case], is_verbose: bool) -> dict[str, Counter[str]]:
    """All cases against one product: outcomes by class."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    with online.RawBackend() as backend, started(product, backend.port) as port:
        for case in cases:
            address = ("127.0.0.1", port)
            transcript, problem = online.replay(
                address, backend, case, lambda data: [data] if data else [], PATIENCE
            )
            problems = judge(case, transcript, is_ours=product == "ours")
            word = outcome(case, transcript, problems)
            if problem:
                word, problems = "laxer", [*problems, problem]
            found[case.group][word] += 1
            if is_verbose and word != "as stated":
                sys.stdout.write(f"{product}: {word}: {case}: {'; '.join(problems)[:300]}\n")
    return found


if __name__ == "__main__":
    sys.exit(main())
