"""nginx, from Debian: one template, with what differs between speed and failing servers set beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from bench.peers.candidate import (
    CONNECT_SECONDS,
    KEEPALIVE_SECONDS,
    READ_SECONDS,
    Candidate,
    Launch,
    Setup,
    said,
)

CONFIG = """
daemon off; user root; worker_processes {workers}; worker_rlimit_nofile 20000;
pid nginx.pid; error_log nginx.err crit;
events {{ worker_connections {connections}; }}
http {{
    {log}
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp;
    uwsgi_temp_path temp; scgi_temp_path temp;
    {clients}
    upstream pool {{
        {pool}
    }}
    server {{
        listen 127.0.0.1:{port}{listen};
        {certificate}
        location / {{
            proxy_pass http://pool;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            {proxying}
        }}
    }}
}}
"""

# -- speed -----------------------------------------------------------------------------------------

LOG_FORMAT = """\
log_format json escape=json '{"timestamp":"$time_iso8601","logger":"access",'
        '"request_id":"$request_id","client_ip":"$remote_addr","method":"$request_method",'
        '"host":"$http_host","target":"$request_uri","protocol":"$server_protocol",'
        '"status":$status,"backend":"$upstream_addr","bytes_in":$request_length,'
        '"bytes_out":$bytes_sent,"duration":$request_time,'
        '"first_byte":"$upstream_header_time","user_agent":"$http_user_agent"}';"""
# The default of 1,000 requests a connection would close connections in mid-measurement.
FAST_CLIENTS = f"""\
keepalive_timeout {KEEPALIVE_SECONDS}s;
    keepalive_requests 1000000000;
    client_max_body_size 0;"""
FAST_POOL = f"""\
{{servers}}
        keepalive {{idle}};
        keepalive_requests 1000000000;
        keepalive_timeout {KEEPALIVE_SECONDS}s;"""
# Streams as all the others do; the defaults spool large bodies to disk.
# Buffers, measured for 256 MiB: 0.57 CPU s/GB instead of 1.03 with the default 8 x 4 KiB.
FAST_PROXYING = """\
proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Request-Id $request_id;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            proxy_buffers 8 64k;
            proxy_busy_buffers_size 128k;"""

# -- failing servers -------------------------------------------------------------------------------

# "zone": the workers share what they know of a server (and its turn).
# max_fails=1 fail_timeout=10s are the defaults; nginx has no active checks without a licence.
SAFE_POOL = """\
zone pool 1m;
        {policy}
        {servers}
        keepalive 32;"""
# The default is "error timeout"; the statuses make 5xx a failure (max_fails) and a GET go to the next
# server. POST is retried only if nothing was sent, unless "non_idempotent".
SAFE_PROXYING = f"""\
proxy_connect_timeout {CONNECT_SECONDS}s;
            proxy_send_timeout {READ_SECONDS}s;
            proxy_read_timeout {READ_SECONDS}s;
            proxy_next_upstream error timeout http_500 http_502 http_503 http_504;"""


class Nginx(Candidate):
    """The one that most know."""

    name = "nginx"
    title = "nginx"
    file = "nginx.conf"
    debian: ClassVar = {"nginx": "nginx"}

    def missing(self) -> str | None:
        return None if shutil.which("nginx") else "nginx is not installed"

    def version(self) -> str:
        return said("nginx", "-v").rpartition("/")[2]

    def config(self, setup: Setup, port: int, folder: Path) -> str:
        servers = "\n        ".join(f"server {backend};" for backend in setup.backends)
        if setup.servers_fail:
            policy = "least_conn;" if setup.algorithm == "least_connections" else ""
            return CONFIG.format(
                workers=setup.workers,
                connections=9000,
                log="access_log off;",
                clients="keepalive_requests 1000000;",
                pool=SAFE_POOL.format(policy=policy, servers=servers),
                port=port,
                listen=" backlog=4096",
                certificate="",
                proxying=SAFE_PROXYING,
            )
        listen = certificate = ""
        if setup.tls:
            listen = " ssl http2" if setup.http2 else " ssl"
            # A shared session cache, as the manual advises; handshakes are not what is measured.
            certificate = (
                f"ssl_certificate {setup.tls[0]}; ssl_certificate_key {setup.tls[1]};"
                "ssl_session_cache shared:tls:10m;"
            )
        listen += " backlog=4096"
        if setup.workers > 1:
            # One socket for each worker, else one of them takes nearly all connections.
            listen += " reuseport"
        # Room for a connection to each server, else a large pool would mean reconnecting.
        idle = max(1024, len(setup.backends))
        return CONFIG.format(
            workers=setup.workers,
            connections=19000,
            # Ours gathers lines too; unbuffered, nginx writes one line a system call.
            log=f"{LOG_FORMAT}\n    access_log {folder / 'access.log'} json buffer=64k flush=1s;",
            clients=FAST_CLIENTS,
            pool=FAST_POOL.format(servers=servers, idle=idle),
            port=port,
            listen=listen,
            certificate=certificate,
            proxying=FAST_PROXYING,
        )

    def start(self, setup: Setup, port: int, path: Path) -> Launch:
        folder = path.parent
        (folder / "temp").mkdir()
        return Launch(("nginx", "-p", str(folder), "-e", "nginx.err", "-c", str(path)), folder)
