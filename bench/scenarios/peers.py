"""The candidates as their documentation advises for failing servers, with the same three timeouts.

Connect 1 s, silence of a server 2 s, health checks every second with a timeout of 1 s; two workers or
threads each; requests of every method retried as far as that is safe, GET also on 5xx where the peer
can do that. Where the documentation leaves a choice, the one that serves the peer better here was
taken. The reason stands beside each setting. Writes files and says commands; starts nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from bench import candidates
from bench.candidates import Launch, Setup

CONNECT_SECONDS = 1
READ_SECONDS = 2
CHECK_SECONDS = 1
CHECK_PATH = "/health"
WORKERS = 2


class Ours(candidates.Ours):
    """Default settings, apart from the timeouts that are the same for all."""

    settings: ClassVar[dict[str, Any]] = {}

    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        config: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "workers": WORKERS,
            "servers": [f"http://{backend}" for backend in setup.backends],
            "algorithm": setup.algorithm,
            "health_check": {
                "path": CHECK_PATH,
                "interval": CHECK_SECONDS,
                "timeout": CHECK_SECONDS,
            },
            "timeouts": {"connect": CONNECT_SECONDS, "read": READ_SECONDS},
            **self.settings,
        }
        return self.start(config, port, WORKERS, folder)


class OursTuned(Ours):
    """What somebody sets who knows that the application can take it."""

    name = "ours-tuned"
    title = "this balancer, tuned"
    settings: ClassVar[dict[str, Any]] = {
        # Slow servers get less, hung ones nothing as soon as others are faster.
        "algorithm": "peak_ewma",
        # As many attempts as the peers, one for each server; none waits for one server longer than ten
        # times what the slowest good answer takes, while another one could be asked.
        # A GET that takes longer than all but one in a hundred is asked for a second time.
        "retries": {"attempts": 4, "per_try_timeout": 0.5, "hedge_after": "p99"},
        # Its servers start with cold caches.
        "slow_start": 5,
        # A server that fails one request in four is not good enough.
        "outlier_detection": {"failure_rate": 25},
    }


class Nginx(candidates.Nginx):
    CONFIG = """
daemon off; user root; worker_processes {workers}; worker_rlimit_nofile 20000;
pid nginx.pid; error_log nginx.err crit;
events {{ worker_connections 9000; }}
http {{
    access_log off;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp;
    uwsgi_temp_path temp; scgi_temp_path temp;
    keepalive_requests 1000000;
    upstream pool {{
        # "zone": the workers share what they know of a server (and its turn).
        zone pool 1m;
        {policy}
        # max_fails=1 fail_timeout=10s are the defaults; nginx has no active checks without a licence.
        {servers}
        keepalive 32;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://pool;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_connect_timeout {connect}s;
            proxy_send_timeout {read}s;
            proxy_read_timeout {read}s;
            # The default is "error timeout"; the statuses make 5xx a failure (max_fails) and a GET go
            # to the next server. POST is retried only if nothing was sent, unless "non_idempotent".
            proxy_next_upstream error timeout http_500 http_502 http_503 http_504;
        }}
    }}
}}
"""

    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        text = self.CONFIG.format(
            workers=WORKERS,
            policy="least_conn;" if setup.algorithm == "least_connections" else "",
            servers="\n        ".join(f"server {backend};" for backend in setup.backends),
            port=port,
            connect=CONNECT_SECONDS,
            read=READ_SECONDS,
        )
        return self.start(text, folder)


class HAProxy(candidates.HAProxy):
    CONFIG = """
global
    nbthread {workers}
    maxconn 6000
defaults
    mode http
    option forwardfor
    option http-keep-alive
    timeout connect {connect}s
    timeout server {read}s
    timeout client 60s
    timeout check {check}s
    # Another server at each retry; the default goes elsewhere only with the last one.
    option redispatch 1
    retries 3
    # The manual's set of what can be retried, 5xx included; and its advice to keep that from requests
    # which are not idempotent. For those conn-failure is still retried.
    retry-on all-retryable-errors
    option httpchk GET {path}
frontend front
    bind 127.0.0.1:{port} backlog 4096
    default_backend pool
backend pool
    balance {policy}
    http-request disable-l7-retry unless METH_GET
    # fall 3 and rise 2 are the defaults. "observe layer7" is its passive check: ten errors in a row
    # (the default) take a server out until it passes the active ones.
    default-server check inter {check}s observe layer7 on-error mark-down
{servers}
"""

    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        text = self.CONFIG.format(
            workers=WORKERS,
            policy="leastconn" if setup.algorithm == "least_connections" else "roundrobin",
            port=port,
            path=CHECK_PATH,
            connect=CONNECT_SECONDS,
            read=READ_SECONDS,
            check=CHECK_SECONDS,
            servers="\n".join(
                f"    server s{number} {backend}" for number, backend in enumerate(setup.backends)
            ),
        )
        return self.start(text, folder)


class Envoy(candidates.Envoy):
    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        routes = [
            _envoy_route("5xx", method="GET"),
            # Only what cannot have been acted upon; Envoy itself looks at no method.
            _envoy_route("connect-failure,refused-stream,reset-before-request"),
        ]
        least = setup.algorithm == "least_connections"
        cluster = {
            "connect_timeout": f"{CONNECT_SECONDS}s",
            "lb_policy": "LEAST_REQUEST" if least else "ROUND_ROBIN",
            # The default of three retries at once refuses the rest of those that a dying server failed.
            "circuit_breakers": {"thresholds": [{"max_retries": 100}]},
            # With the default of 50 % the last good server of four would share with three bad ones.
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            # 10 %, the default, is less than one server of four. An ejected server is back as soon as
            # it passes an active check (successful_active_health_check_uneject_host, the default).
            "outlier_detection": {"max_ejection_percent": 50},
            "health_checks": [
                {
                    "timeout": f"{CHECK_SECONDS}s",
                    "interval": f"{CHECK_SECONDS}s",
                    # Of a cluster that has had no traffic yet, 60 s by default.
                    "no_traffic_interval": f"{CHECK_SECONDS}s",
                    "unhealthy_threshold": 3,
                    "healthy_threshold": 2,
                    "http_health_check": {"path": CHECK_PATH},
                }
            ],
        }
        config = candidates.envoy_bootstrap(setup, port, routes, {}, cluster)
        return self.start(config, WORKERS, folder)


def _envoy_route(retry_on: str, method: str = "") -> dict[str, Any]:
    match: dict[str, Any] = {"prefix": "/"}
    if method:
        match["headers"] = [{"name": ":method", "string_match": {"exact": method}}]
    return {
        "match": match,
        "route": {
            "cluster": "pool",
            "timeout": f"{READ_SECONDS * 4}s",
            "retry_policy": {
                "retry_on": retry_on,
                "num_retries": 3,
                "per_try_timeout": f"{READ_SECONDS}s",
                # The documented way of not trying the same server again.
                "retry_host_predicate": [
                    {
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": {
                            "@type": f"{candidates.ENVOY}retry.host.previous_hosts.v3"
                            ".PreviousHostsPredicate"
                        },
                    }
                ],
                "host_selection_retry_max_attempts": 5,
            },
        },
    }


class Caddy(candidates.Caddy):
    CONFIG = """
{{
    admin off
    persist_config off
    auto_https off
    log {{
        output stderr
        level PANIC
    }}
    servers {{
        protocols h1
    }}
}}
http://:{port} {{
    bind 127.0.0.1
    reverse_proxy {{
        to {servers}
        # The default is random.
        lb_policy {policy}
        # Retries are off by default. Whatever was not dialled is retried, and of the rest GET.
        lb_retries 3
        # The default of 250 ms is for the case that all are down.
        lb_try_interval 50ms
        health_uri {path}
        health_interval {check}s
        health_timeout {check}s
        # Passive checks are off by default; these are the values of its documentation's example.
        fail_duration 10s
        max_fails 1
        unhealthy_status 5xx
        transport http {{
            dial_timeout {connect}s
            response_header_timeout {read}s
            read_timeout {read}s
        }}
    }}
}}
"""

    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        text = self.CONFIG.format(
            port=port,
            servers=" ".join(setup.backends),
            policy="least_conn" if setup.algorithm == "least_connections" else "round_robin",
            path=CHECK_PATH,
            connect=CONNECT_SECONDS,
            read=READ_SECONDS,
            check=CHECK_SECONDS,
        )
        return self.start(text, WORKERS, folder)


ALL: tuple[type[candidates.Candidate], ...] = (Ours, OursTuned, Nginx, HAProxy, Envoy, Caddy)


def algorithm_of(candidate: candidates.Candidate, wanted: str) -> str:
    """What it runs with when a scenario wants ``wanted``."""
    own = candidate.settings if isinstance(candidate, Ours) else {}
    return str(own.get("algorithm", wanted))


def algorithms(candidate: candidates.Candidate) -> tuple[str, ...]:
    """The other algorithms that a scenario may ask of it."""
    if isinstance(candidate, OursTuned):
        return ()
    if isinstance(candidate, Ours):
        return ("least_connections", "peak_ewma")
    return ("least_connections",)
