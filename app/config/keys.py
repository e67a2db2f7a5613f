"""The table of keys: validation, defaults, schema and documentation all come from it.

A new key is a Key here, or in the file of its object (client_keys: clients and the log; server_keys:
servers), and a field of the same name in app.config.model; config.schema.json and docs/configuration.md are
made from this table (``python -m app.config schema`` and ``docs``).
"""

from __future__ import annotations

import os
from typing import Any

from app.config import checks
from app.config.client_keys import LIMITS, LOGGING, STICKY, TIMEOUTS, TLS
from app.config.entries import AlgorithmEntry, ServerEntry
from app.config.model import Algorithm, Config
from app.config.sections import DAY_S, root_section
from app.config.server_keys import (
    BACKEND_TLS,
    HEALTH_CHECK,
    OUTLIER_DETECTION,
    QUEUE,
    RETRIES,
    SERVER,
)
from app.config.types import (
    SCHEMA_KEY,
    Choice,
    Key,
    ListOf,
    Number,
    Text,
    Whole,
)
from app.wire import claims


def available_cores() -> int:
    """Cores this process may run on: fewer than the machine has under taskset or a cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _config(**values: Any) -> Config:
    del values[SCHEMA_KEY.name]
    return Config(**values)


# fmt: off
ROOT = root_section(_config, (
    SCHEMA_KEY,
    Key("host", Text(checks.listen_host, "address or host name"), "0.0.0.0",
        "Address to listen on.", examples=("127.0.0.1", "::")),
    Key("port", Whole(1, 65_535), 8080,
        "Port to listen on."),
    Key("workers", Whole(1, 1024), available_cores,
        "Worker processes; one a core is enough, each serves thousands of connections.",
        default_words="the cores available"),
    Key("servers", ListOf("servers", ServerEntry(SERVER), lambda server: str(server.url),
                          "list of URLs or objects"), (),
        "The servers that requests are forwarded to, each a URL or an object. "
        "With none, every request is answered 503.",
        examples=(["http://127.0.0.1:8001", {"url": "http://127.0.0.1:8002", "weight": 2}],)),
    Key("algorithm", AlgorithmEntry(), Algorithm("round_robin"),
        "How the server for a request is picked; each algorithm and its options: algorithms.md.",
        examples=("least_connections",
                  {"name": "hash", "hash_on": "header:X-User", "balance_factor": 1.25},
                  {"name": "mypackage.NightShift", "limit": 20})),
    Key("health_check", HEALTH_CHECK, HEALTH_CHECK.defaults,
        "How servers are found healthy or unhealthy; false: never checked, all count as healthy."),
    Key("outlier_detection", OUTLIER_DETECTION, OUTLIER_DETECTION.defaults,
        "When a server is set aside for what requests meet there: never the last one, at most half of them "
        "(one of two or three); false: never."),
    Key("sticky", STICKY, None,
        "A cookie brings each client back to its server, whatever the algorithm: sticky-sessions.md. "
        "{} for the defaults; false: none.", examples=({}, {"secret_file": "/run/secrets/sticky"})),
    Key("timeouts", TIMEOUTS, TIMEOUTS.defaults,
        "How long each thing may take."),
    Key("retries", RETRIES, RETRIES.defaults,
        "When another server is tried."),
    Key("queue", QUEUE, QUEUE.defaults,
        "Where requests wait while all available servers have their `max_connections`; false: they are "
        "answered 503 at once."),
    Key("slow_start", Number(0, DAY_S), 0.0,
        "A server that is new, healthy again or back from an ejection gets its share little by little over "
        "this time: from a tenth of its weight to all of it (0 = at once). Not with `hash` and `first`."),
    Key("limits", LIMITS, LIMITS.defaults,
        "How much clients may ask for."),
    Key("logging", LOGGING, LOGGING.defaults,
        "What is written to standard output, each line a JSON object."),
    Key("tls", TLS, None,
        "Clients speak HTTPS; false: plain HTTP. Files that are replaced are used for new connections "
        "within seconds, without a reload; bad ones are refused and the old ones stay."),
    Key("backend_tls", BACKEND_TLS, BACKEND_TLS.defaults,
        "How https:// servers are connected to, for requests and health checks alike. Files that are "
        "replaced are used for new connections within seconds; bad ones are refused and the old ones stay."),
    Key("send_proxy", Choice(("off", "v1", "v2")), "off",
        "Each connection to a server begins with a header of the PROXY protocol that tells the client's "
        "address; a connection is then used again for that address and port only."),
    Key("mend_responses", ListOf("mend_responses", Choice(("bare_lf", "obs_fold")), str,
                                 'list of "bare_lf" and "obs_fold"'), (),
        "Faults in the heads of servers' responses that are mended instead of answered with 502: lines that "
        "end in LF alone, fields that go on in a second line.", examples=(["obs_fold"],)),
    Key("trusted_proxies", ListOf("trusted_proxies", Text(checks.network, "address or CIDR"), str,
                                  "list of addresses and CIDRs"), (),
        "Proxies in front of this one, whose X-Forwarded-*, Forwarded and X-Request-Id are believed.",
        examples=(["10.0.0.0/8", "::1"],)),
    Key("trusted_headers", ListOf("trusted_headers", Text(checks.claimed_header, "header name"), str,
                                  "list of header names"), claims.DEFAULT,
        "Request headers that only `trusted_proxies` may send, as X-Forwarded-*, Forwarded and X-Real-IP: of "
        "anybody else they are dropped, for servers that believe them would be deceived. `*` at the end: all "
        "that begin so. The list replaces the default one.", examples=([], ["Remote-User", "X-SSL-*"])),
    Key("proxy_protocol", ListOf("proxy_protocol", Text(checks.network, "address or CIDR"), str,
                                 "list of addresses and CIDRs"), (),
        "Proxies in front of this one whose connections begin with a header of the PROXY protocol, version 1 "
        "or 2, before TLS. It is required and believed from them, and an error from others (http.md).",
        examples=(["10.0.0.5", "10.1.0.0/16"],)),
    Key("forwarded", Choice(("x-forwarded", "forwarded", "both")), "x-forwarded",
        "How servers are told about the client: X-Forwarded-For, -Proto and -Host, or Forwarded (RFC 7239), "
        "or both. Where a trusted proxy sends both, the one named is believed (both: X-Forwarded-For)."),
    Key("via", Choice(("none", "request", "response", "both")), "none",
        "Which messages are given a Via field. RFC 9110 §7.6.3 asks for it in both; but nginx servers do not "
        "compress for requests that have one (their `gzip_proxied`). Loops are found without it (CDN-Loop)."),
    Key("server_header", Text(checks.server_header, "text", r"^[!-~]([ -~]*[!-~])?$"), "pass",
        "The Server header of responses: `pass`, the server's own, and none on answers of our own; `none`, "
        "never one; any other text, that on all. Under `-k gevent` it is gunicorn's.",
        examples=("none", "Example")),
    Key("upgrade", ListOf("upgrade", Text(checks.protocol, "protocol name", f"^{checks.HEADER_NAME}$"), str,
                          "list of protocol names"), ("websocket",),
        "Protocols that a connection may be switched to (the Upgrade header); it is then a tunnel. "
        "A request that asks for another one is forwarded without that wish.",
        examples=([], ["websocket", "tcp"])),
    Key("graceful_timeout", Number(0, DAY_S), 30.0,
        "When a worker goes (a stop, a reload), how long requests and tunnels in flight may take to finish. "
        "Idle connections of one that others follow stay open as long, for one more request."),
), elements=(("servers[]", SERVER),))

OVERRIDES = (  # environment variable, key that it wins over
    ("LB_HOST", "host"),
    ("LB_PORT", "port"),
    ("WEB_CONCURRENCY", "workers"),
)
# fmt: on
