"""Backends that are no bottleneck: one nginx worker with fixed answers, and the upload sink.

Pinned with the load tool, away from the proxy. nginx answers a small GET some 200,000 times a
second on one core, three times what the fastest proxy can pass on, so it is never what is
measured.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import procs

BODY = b"hello, world!!\n"
LARGE_BYTES = 256 << 20
PAGE_BYTES = 16 << 10

# `return` would answer a POST before its body has been read; the mirror module reads the body
# first, and the static module then refuses the method, which the error page turns into the
# answer.
CONFIG = """
daemon off; user root; worker_processes 1; worker_rlimit_nofile 20000;
pid backend.pid; error_log backend.err crit;
events {{ worker_connections 19000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=16 inactive=1h;
    client_body_buffer_size 64k;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp;
    uwsgi_temp_path temp; scgi_temp_path temp;
    default_type text/plain;
    {servers}
}}
"""
SERVER = """
    server {{
        listen {listen} backlog=4096;
        root files;
        location / {{ return 200 "{body}"; }}
        location /files/ {{ alias files/; }}
        location = /post {{ mirror /read; error_page 405 =200 @done; try_files /page =404; }}
        location = /read {{ internal; return 204; }}
        location @done {{ return 200 "{body}"; }}
    }}
"""
# One wildcard socket answers for every address of 127.0.0.0/8, where 10,000 listeners would take
# 10,000 descriptors; anybody who is not on this machine is hung up on.
CROWD = """
    server {{
        listen {port} backlog=4096;
        if ($remote_addr !~ ^127\\.) {{ return 444; }}
        location / {{ return 200 "{body}"; }}
    }}
"""


@dataclass(frozen=True)
class Backends:
    """Where they are."""

    web: tuple[str, ...]
    """Two servers, as host:port."""
    sink: str
    crowd_port: int
    large_file: Path

    def crowd(self, size: int) -> tuple[str, ...]:
        """``size`` servers with an address each."""
        return tuple(
            f"127.1.{number // 250}.{number % 250 + 1}:{self.crowd_port}" for number in range(size)
        )


@contextlib.contextmanager
def standing(folder: Path, cores: Sequence[int], root: Path) -> Iterator[Backends]:
    """Backends started in ``folder``, answering, stopped at the end."""
    files = folder / "files"
    (folder / "temp").mkdir(parents=True)
    files.mkdir()
    (files / "page").write_bytes(b"x" * (PAGE_BYTES - 1) + b"\n")
    large = files / "large"
    with open(large, "wb") as out:
        out.writelines([b"\0" * (1 << 20)] * (LARGE_BYTES >> 20))
    one, two, crowd, sink = (procs.free_port() for _ in range(4))
    body = BODY.decode().replace("\n", "\\n")
    servers = "".join(SERVER.format(listen=f"127.0.0.1:{port}", body=body) for port in (one, two))
    servers += CROWD.format(port=crowd, body=body)
    config = folder / "backend.conf"
    config.write_text(CONFIG.format(servers=servers))
    command = ["nginx", "-p", str(folder), "-e", "backend.err", "-c", str(config)]
    nginx = procs.Process(command, cores=cores, log=folder / "backend.log", cwd=folder)
    with procs.running(nginx):
        reader = procs.Process(
            [sys.executable, "-m", "bench.backends.sink", str(sink)],
            cores=cores,
            log=folder / "sink.log",
            cwd=root,
        )
        with procs.running(reader):
            for process, port in ((nginx, one), (reader, sink)):
                if not procs.wait_until(lambda port=port: procs.listens(port), 10):  # type: ignore[misc]
                    raise procs.BenchError(f"the backends did not start: {process.said()}")
            yield Backends(
                (f"127.0.0.1:{one}", f"127.0.0.1:{two}"), f"127.0.0.1:{sink}", crowd, large
            )
