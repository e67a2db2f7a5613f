"""The table of keys: validation, defaults, schema and documentation all come from it.

A new key is a Key here and a field of the same name in app.config.model; config.schema.json and
docs/configuration.md are made from this table (``python -m app.config schema`` and ``docs``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from app.config import checks
from app.config.entries import (
    URL,
    AlgorithmEntry,
    Delay,
    ServerEntry,
    backend_tls_from,
    health_check_from,
    server_from,
)
from app.config.model import (
    Algorithm,
    Config,
    Limits,
    Logging,
    OutlierDetection,
    Queue,
    Retries,
    Sticky,
    Timeouts,
    Tls,
)
from app.config.types import (
    SCHEMA_KEY,
    Choice,
    Flag,
    Headers,
    Key,
    ListOf,
    Nullable,
    Number,
    Object,
    Statuses,
    Text,
    Whole,
)

DAY_S = 86_400


def available_cores() -> int:
    """Cores this process may run on: fewer than the machine has under taskset or a cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _config(**values: Any) -> Config:
    del values[SCHEMA_KEY.name]
    return Config(**values)


def sections() -> Iterator[tuple[str, Object]]:
    """Every object of the table below with its path."""
    yield "", ROOT
    yield "servers[]", SERVER
    for key in ROOT.keys:
        if isinstance(key.type, Object):
            yield key.name, key.type


def _object(make: Callable[..., Any], keys: tuple[Key, ...], or_false: bool = False) -> Object:
    return Object(make, keys, sections, or_false)


# fmt: off
SERVER = _object(server_from, (
    Key("url", URL, None,
        "Where it is. A path is put in front of the path of every request.",
        examples=("http://127.0.0.1:8001", "https://app.example/base", "http://[::1]:8001",
                  "unix:/run/app.sock"), required=True),
    Key("weight", Whole(1, 1000), 1,
        "Its share of the requests, relative to the other servers."),
    Key("backup", Flag(), False,
        "Used only while no other server is available."),
    Key("max_connections", Whole(0, 1_000_000), 0,
        "Requests in flight to it at once, over all workers (0 = unlimited)."),
    Key("state", Choice(("ready", "drain", "maint")), "ready",
        "drain: it gets no more requests (of `sticky` clients those of its own), those in flight finish; "
        "maint: none at all, it is not checked either, and checked before it is used again."),
))

HEALTH_CHECK = _object(health_check_from, (
    Key("type", Choice(("http", "tcp")), "http",
        "http: the answer to a request decides; tcp: that a connection can be opened is enough, and the keys "
        "about requests and answers have no use."),
    Key("method", Choice(("GET", "HEAD", "OPTIONS", "POST")), "GET",
        "The method of the request, which has no body."),
    Key("path", Text(checks.probe_path, "path, with a query if wanted", r"^/[!\"$-~]*$"), "/",
        "What is asked for; redirects are not followed.", examples=("/healthz",)),
    Key("interval", Number(0.01, DAY_S), 5.0,
        "Time from one check of a server to its next."),
    Key("fast_interval", Number(0.01, DAY_S), 0.5,
        "The same while in doubt: after a result that contradicts the verdict, while a server is set aside, "
        "while none is healthy, and at first of an unhealthy one, then twice as long each time; never longer "
        "than interval."),
    Key("timeout", Number(0.01, 3600), 2.0,
        "The whole check must be over in this time, whatever the server does."),
    Key("healthy_threshold", Whole(1, 100), 2,
        "Checks passed in a row that make an unhealthy server healthy; the very first decides alone, and any "
        "while no server is healthy."),
    Key("unhealthy_threshold", Whole(1, 100), 3,
        "Checks failed in a row that make a healthy server unhealthy; the very first decides alone."),
    Key("expected_status", Statuses(), ((200, 399),),
        "Statuses that pass.", examples=("200-399", "200,204,300-399", 200, [200, "300-399"])),
    Key("body", Nullable(Text(str, "text", r"^.+$")), None,
        "Text that the first 64 KiB of the answer's body must contain to pass.",
        examples=('"status":"up"',)),
    Key("body_regex", Nullable(Text(checks.regex, "regular expression of Python", r"^.+$")), None,
        "Regular expression that must be found there to pass, within 50 ms.",
        examples=(r"^(OK|ready)\b",)),
    Key("host", Nullable(Text(checks.host_field, "host or host:port")), None,
        "Host header of the check, instead of the server's own.", examples=("app.example",)),
    Key("headers", Headers(), (),
        "Extra headers of the check.", examples=({"X-Probe": "load-balancer"},)),
    Key("jitter", Number(0, 0.5, "share of interval"), 0.1,
        "Each wait is longer or shorter by up to this share, so that checks do not come in bursts."),
    Key("panic_threshold", Whole(0, 100, "percent"), 0,
        "When fewer than that share of the ready servers are healthy, all of them are used: the checks are "
        "believed to be wrong then (0 = never)."),
), or_false=True)

OUTLIER_DETECTION = _object(OutlierDetection, (
    Key("connect_failures", Whole(0, 10_000), 3,
        "Failed connects in a row that set a server aside, over all workers (0 = never)."),
    Key("resets", Whole(0, 10_000), 5,
        "The same for requests without a whole answer: reset, cut, unreadable, timed out (0 = never)."),
    Key("server_errors", Whole(0, 10_000), 5,
        "The same for answers of 500 and above, but 501 and 505 (0 = never)."),
    Key("failure_rate", Whole(0, 100, "percent"), 50,
        "Share of its last outcomes, 20 in each worker, that are failures of these kinds, five at least and "
        "three times the share of the other servers, at which it is set aside too (0 = never)."),
    Key("stall_after", Number(0, 3600), 0.3,
        "Silence after which a server that answers nobody any more is set aside until it does: at least this "
        "long, and at least four times the slowest answer of late (0 = never)."),
    Key("stall_requests", Whole(1, 10_000), 3,
        "How many requests must wait there then, over all workers."),
    Key("ejection_time", Number(0.1, DAY_S), 0.5,
        "How long it is set aside, times how often it lately was; then requests try it, one by one."),
    Key("max_ejection_time", Number(0.1, DAY_S), 300.0,
        "The longest that this time grows to."),
), or_false=True)

TIMEOUTS = _object(Timeouts, (
    Key("connect", Number(0, DAY_S), 3.0,
        "To connect to a server (0 = none); over it, another server is tried, or 504."),
    Key("read", Number(0, DAY_S), 60.0,
        "Longest silence of a server while its response is awaited or read (0 = none); over it, 504."),
    Key("total", Number(0, DAY_S), 0.0,
        "The whole request, from its head to the end of its response (0 = none); over it, 504."),
    Key("head", Number(0, DAY_S), 0.0,
        "For a client to send its whole request head, however steadily it drips, on a new connection with "
        "its TLS handshake (0 = as `client`); over it, 408."),
    Key("client", Number(0, DAY_S), 60.0,
        "For a client to send its request head, if `head` is 0, to send more of its body, and to take more "
        "of its response (0 = none); over it, 408."),
    Key("keepalive", Number(0, DAY_S), 75.0,
        "An idle connection of a client is closed after this time (0 = none)."),
    Key("backend_keepalive", Number(0, DAY_S), 1.5,
        "An idle connection to a server is closed after this time (0 = none); keep it below the server's "
        "own (gunicorn 2 s, Node and uvicorn 5 s), or requests meet connections that are being closed."),
    Key("tunnel", Number(0, DAY_S), 3600.0,
        "A tunnel (WebSocket) in which nothing moves either way is closed after this time (0 = none); "
        "`client`, `read` and `total` do not apply to it."),
))

RETRIES = _object(Retries, (
    Key("attempts", Whole(0, 16), 2,
        "Servers that may be asked for one request, the first included (0 or 1 = never another). Those that "
        "refuse the connection are not counted, up to eight of them."),
    Key("statuses", ListOf("statuses", Whole(400, 599), str, "list of status codes 400–599"),
        (500, 502, 503, 504),
        "Answers with these make another server be asked, where there is one and the request may be repeated "
        "(its method is idempotent, or it has an `Idempotency-Key`). If that fails too, the last answer is "
        "the client's.",
        examples=([], [429, 503])),
    Key("buffer", Whole(0, 2**30, "bytes"), 65_536,
        "Request bodies up to this size are kept while they are sent, so that they can be sent again; "
        "a longer one is not sent twice (0 = none is)."),
    Key("per_try_timeout", Number(0, DAY_S), 0.0,
        "For the first byte of an answer while another server could be asked instead (0 = `timeouts.read`); "
        "the last attempt has `timeouts.read`."),
    Key("budget", Number(0, 100, "percent"), 20.0,
        "Retries, as a share of the requests of the last 10 s, all workers together; refused connections "
        "are not charged. Over it, the failure is the client's."),
    Key("min_per_second", Number(0, 1_000_000, "number"), 3.0,
        "Retries that the budget allows in any case."),
    Key("hedge_after", Delay(0, DAY_S), 0.0,
        "A request that may be repeated and has no body is sent to another server too when its answer has "
        "not begun after this time, or after that of this percentile of the latest answers; the first answer "
        "wins (0 = never).",
        examples=(0.2, "p95", "p99")),
))

QUEUE = _object(Queue, (
    Key("size", Whole(1, 1_000_000), 1024,
        "Requests of one worker that may wait at once; over it, 503."),
    Key("timeout", Number(0.001, DAY_S), 3.0,
        "How long a request waits for a place; over it, 503. Never longer than `timeouts.total`."),
), or_false=True)

LIMITS = _object(Limits, (
    Key("body", Whole(0, 2**50, "bytes"), 0,
        "Longest request body (0 = unlimited); over it, 413."),
    Key("connections", Whole(0, 1_000_000), 0,
        "Client connections of one worker at once (0 = unlimited); over it, 503 at once."),
    Key("request_line", Whole(256, 2**16, "bytes"), 8190,
        "Longest request line, without its line end; over it, 414."),
    Key("header_count", Whole(1, 256), 100,
        "Header fields of a request; over it, 431. A server gets up to nine more, and may have a limit "
        "of its own (gunicorn 100)."),
    Key("header_size", Whole(256, 2**20, "bytes"), 8190,
        "Longest header field, its name and line end included; over it, 431."),
    Key("headers_size", Whole(256, 2**20, "bytes"), 32_768,
        "All header fields of a request together; over it, 431."),
    Key("body_rate", Whole(0, 2**30, "bytes a second"), 0,
        "Slowest request body, on average after its first five seconds; only time in which the client is "
        "waited for counts (0 = any); below it, 408."),
    Key("requests_per_connection", Whole(0, 2**31), 0,
        "Requests on one connection of a client; the last answer says `Connection: close` (0 = unlimited)."),
    Key("connections_per_client", Whole(0, 1_000_000), 0,
        "Connections of one client address at one worker, an IPv6 client being its /64; those of "
        "`trusted_proxies` are not counted (0 = unlimited); over it, 429 at once."),
))

# What OAuth 2, JWT, sessions, API keys and the signed URLs of AWS, Google and Azure put into queries.
SECRETS = (
    "access_token", "api-key", "api_key", "apikey", "auth", "auth_token", "authorization", "client_secret",
    "credential", "credentials", "id_token", "jwt", "passphrase", "passwd", "password", "private_key", "pwd",
    "refresh_token", "secret", "session", "session_id", "sessionid", "sig", "signature", "token",
    "x-amz-credential", "x-amz-security-token", "x-amz-signature", "x-goog-credential", "x-goog-signature",
)

LOGGING = _object(Logging, (
    Key("level", Choice(("debug", "info", "warning", "error", "critical")), "info",
        "Least level of the messages that are logged; access lines are not affected."),
    Key("access", Flag(), True,
        "One line for each request."),
    Key("redact", ListOf("redact", Text(checks.parameter, "name", r"^[^&;=\s\[\]]+$"), str,
                         "list of names of query parameters"), SECRETS,
        "Their values are `***` in the log, whatever their case; also of `user[password]` and the like.",
        examples=(["token", "password"],)),
))

PEM_FILE = Text(str, "path of a PEM file", r"^.+$")

TLS = _object(Tls, (
    Key("certificate", PEM_FILE, None,
        "The certificate, and behind it those between it and the root.", required=True,
        examples=("/etc/load-balancer/tls.crt",)),
    Key("key", PEM_FILE, None,
        "Its private key, without a password.", required=True,
        examples=("/etc/load-balancer/tls.key",)),
    Key("minimum_version", Choice(("1.2", "1.3")), "1.2",
        "Clients that speak only older versions of TLS are refused."),
    Key("client_ca", Nullable(PEM_FILE), None,
        "Only clients with a certificate of these authorities are let in (mutual TLS)."),
    Key("http2", Flag(), True,
        "Clients that can speak HTTP/2 do (ALPN); not with `-k gevent`."),
), or_false=True)

BACKEND_TLS = _object(backend_tls_from, (
    Key("verify", Flag(), True,
        "Whether a server must show a valid certificate for its name; false: anybody on the way can read and "
        "change what is sent."),
    Key("ca", Nullable(PEM_FILE), None,
        "Authorities whose certificates are accepted, instead of the public ones (certifi's).",
        examples=("/etc/load-balancer/backends-ca.pem",)),
    Key("server_name", Nullable(Text(checks.listen_host, "host name or address")), None,
        "The name asked for (SNI) and verified, instead of the host in each server's URL.",
        examples=("app.internal",)),
    Key("certificate", Nullable(PEM_FILE), None,
        "A certificate to show to servers that ask for one (mutual TLS), and behind it those between it and "
        "the root."),
    Key("key", Nullable(PEM_FILE), None,
        "Its private key, without a password."),
    Key("minimum_version", Choice(("1.2", "1.3")), "1.2",
        "Servers that speak only older versions of TLS are not connected to."),
))

STICKY = _object(Sticky, (
    Key("cookie", Text(checks.cookie_name, "cookie name", f"^{checks.HEADER_NAME}$"), "lb",
        "Its name. It is ours alone: servers never see it."),
    Key("secret", Nullable(Text(checks.secret, "at least 16 characters", r"^.{16,}$", True)), None,
        "What its values are made with (openssl rand -hex 32 makes one), the same on all machines that serve "
        "these clients; with none, one is made at each start, and clients get another server then."),
    Key("secret_file", Nullable(Text(str, "path of a file", r"^.+$")), None,
        "The file that has it, instead; space around it is left out.",
        examples=("/run/secrets/sticky",)),
    Key("path", Text(checks.cookie_path, "path", r"^/[!-:<-~]*$"), "/",
        "Only requests below this path carry the cookie.", examples=("/shop",)),
    Key("max_age", Whole(0, 34_560_000, "seconds"), 0,
        "How long browsers keep it, from when it was set (0 = until they are closed)."),
), or_false=True)

ROOT = _object(_config, (
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
    Key("proxy_protocol", ListOf("proxy_protocol", Text(checks.network, "address or CIDR"), str,
                                 "list of addresses and CIDRs"), (),
        "Proxies in front of this one whose connections begin with a header of the PROXY protocol, version 1 "
        "or 2, before TLS. It is required and believed from them, and an error from others (http.md).",
        examples=(["10.0.0.5", "10.1.0.0/16"],)),
    Key("forwarded", Choice(("x-forwarded", "forwarded", "both")), "x-forwarded",
        "How servers are told about the client: X-Forwarded-For, -Proto and -Host, or Forwarded (RFC 7239), "
        "or both. Where a trusted proxy sends both, the one named is believed (both: X-Forwarded-For)."),
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
        "When stopping or reloading, how long requests and tunnels in flight may take to finish."),
))

OVERRIDES = (  # environment variable, key that it wins over
    ("LB_HOST", "host"),
    ("LB_PORT", "port"),
    ("WEB_CONCURRENCY", "workers"),
)
# fmt: on
