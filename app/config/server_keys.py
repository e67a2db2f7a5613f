"""The keys of the objects about servers: how they are checked, set aside, retried and connected to."""

from __future__ import annotations

from app.config import checks
from app.config.entries import URL, Delay, backend_tls_from, health_check_from, server_from
from app.config.model import OutlierDetection, Queue, Retries
from app.config.sections import CIPHER_LIST, CURVE_LIST, DAY_S, PEM_FILE, section
from app.config.types import (
    Choice,
    Flag,
    Headers,
    Key,
    ListOf,
    Nullable,
    Number,
    Statuses,
    Text,
    Whole,
)

# fmt: off
SERVER = section(server_from, (
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

HEALTH_CHECK = section(health_check_from, (
    Key("type", Choice(("http", "tcp")), "http",
        "http: the answer to a request decides; tcp: that a connection can be opened is enough, and the keys "
        "about requests and answers have no use."),
    Key("method", Choice(("GET", "HEAD", "OPTIONS", "POST")), "GET",
        "The method of the request, which has no body."),
    Key("path", Text(checks.probe_path, "path, with a query if wanted", r'^/[!"$-~]*$'), "/",
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

OUTLIER_DETECTION = section(OutlierDetection, (
    Key("connect_failures", Whole(0, 10_000), 3,
        "Failed connects in a row that set a server aside, over all workers (0 = never)."),
    Key("resets", Whole(0, 10_000), 5,
        "The same for requests without a whole answer: reset, cut, timed out (0 = never)."),
    Key("server_errors", Whole(0, 10_000), 5,
        "The same for answers of 500 and above, but 501 and 505 (0 = never)."),
    Key("failure_rate", Whole(0, 100, "percent"), 50,
        "Share of its last outcomes, 20 in each worker, that are failures of these kinds or answers that "
        "cannot be read, five at least and three times the share of the other servers, at which it is set "
        "aside too (0 = never)."),
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

RETRIES = section(Retries, (
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
        "For the first byte of an answer, if another server may be asked when it is over; else, and for the "
        "last attempt, `timeouts.read` holds (0 = always)."),
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

QUEUE = section(Queue, (
    Key("size", Whole(1, 1_000_000), 1024,
        "Requests of one worker that may wait at once; over it, 503."),
    Key("timeout", Number(0.001, DAY_S), 3.0,
        "How long a request waits for a place; over it, 503. Never longer than `timeouts.total`."),
), or_false=True)

BACKEND_TLS = section(backend_tls_from, (
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
    Key("ciphers", CIPHER_LIST, (),
        "Cipher suites of TLS 1.2 that servers may choose from, by their OpenSSL names; empty for OpenSSL's "
        "own."),
    Key("curves", CURVE_LIST, (),
        "Groups for the key exchange that servers may choose from; empty for OpenSSL's own."),
))
# fmt: on
