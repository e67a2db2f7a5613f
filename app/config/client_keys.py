"""The keys of the objects about clients and the log: times, limits, TLS, cookies, what a line shows."""

from __future__ import annotations

from app.config import checks
from app.config.model import Limits, Logging, Sticky, Timeouts, Tls
from app.config.sections import CIPHER_LIST, CURVE_LIST, DAY_S, PEM_FILE, section
from app.config.types import Choice, Flag, Key, ListOf, Nullable, Number, Text, Whole

# fmt: off
TIMEOUTS = section(Timeouts, (
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
    Key("half_close", Number(0, DAY_S), 0.0,
        "For the answer to a client of HTTP/1.1 that has closed its sending side, as `nc` does (0 = such a "
        "client has gone, and its request ends at once); over it, 499 in the log."),
    Key("keepalive", Number(0, DAY_S), 75.0,
        "An idle connection of a client is closed after this time (0 = none)."),
    Key("backend_keepalive", Number(0, DAY_S), 1.5,
        "An idle connection to a server is closed after this time (0 = none); keep it below the server's "
        "own (gunicorn 2 s, Node and uvicorn 5 s), or requests meet connections that are being closed."),
    Key("tunnel", Number(0, DAY_S), 3600.0,
        "A tunnel (WebSocket) in which nothing moves either way is closed after this time (0 = none); "
        "`client`, `read` and `total` do not apply to it."),
))

LIMITS = section(Limits, (
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
    Key("body_rate", Whole(0, 2**30, "bytes a second"), 100,
        "Slowest request body, on average; only time in which the client is waited for counts, and not the "
        "first of it: what 6,000 bytes may take at that rate, between 5 s and a minute (0 = any rate); below "
        "it, 408."),
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

LOGGING = section(Logging, (
    Key("level", Choice(("debug", "info", "warning", "error", "critical")), "info",
        "Least level of the messages that are logged; access lines are not affected."),
    Key("access", Flag(), True,
        "One line for each request."),
    Key("redact", ListOf("redact", Text(checks.parameter, "name", r"^[^&;=\s\[\]]+$"), str,
                         "list of names of query parameters"), SECRETS,
        "Their values are `***` in the log, whatever their case; also of `user[password]` and the like.",
        examples=(["token", "password"],)),
))

# Mozilla's Server Side TLS 5.8, "intermediate", without what OpenSSL does not choose with Python (DHE).
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
)
CURVES = ("X25519MLKEM768", "X25519", "P-256", "P-384")

TLS = section(Tls, (
    Key("certificate", PEM_FILE, None,
        "The certificate, and behind it those between it and the root.", required=True,
        examples=("/etc/load-balancer/tls.crt",)),
    Key("key", PEM_FILE, None,
        "Its private key, without a password.", required=True,
        examples=("/etc/load-balancer/tls.key",)),
    Key("minimum_version", Choice(("1.2", "1.3")), "1.2",
        "Clients that speak only older versions of TLS are refused."),
    Key("ciphers", CIPHER_LIST, CIPHERS,
        "Cipher suites of TLS 1.2 that are accepted, first ones first, by their OpenSSL names; those of TLS "
        "1.3 always are. With `http2` none that HTTP/2 forbids (RFC 9113, appendix A): no CBC.",
        default_words="Mozilla's intermediate set: ECDHE with AES-GCM or ChaCha20-Poly1305",
        examples=(["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"],)),
    Key("curves", CURVE_LIST, CURVES,
        "Groups for the key exchange, first ones first; of the default, those that OpenSSL here does not "
        "know are left out (`X25519MLKEM768` came with 3.5).", examples=(["X25519", "P-256"],)),
    Key("client_ca", Nullable(PEM_FILE), None,
        "Only clients with a certificate of these authorities are let in (mutual TLS)."),
    Key("http2", Flag(), True,
        "Clients that can speak HTTP/2 do (ALPN); not with `-k gevent`."),
), or_false=True)

STICKY = section(Sticky, (
    Key("cookie", Text(checks.cookie_name, "cookie name", f"^{checks.HEADER_NAME}$"), "lb",
        "Its name. It is ours alone: servers never see it."),
    Key("secret", Nullable(Text(checks.secret, "at least 16 characters", r"^.{16,}$", True)), None,
        "What its values are made with (openssl rand -hex 32 makes one), the same on all machines that serve "
        "these clients; with none, one is made at each start, and clients get another server then."),
    Key("secret_file", Nullable(Text(str, "path of a file", r"^.+$", is_path=True)), None,
        "The file that has it, instead; space around it is left out.",
        examples=("/run/secrets/sticky",)),
    Key("path", Text(checks.cookie_path, "path", r"^/[!-:<-~]*$"), "/",
        "Only requests below this path carry the cookie.", examples=("/shop",)),
    Key("max_age", Whole(0, 34_560_000, "seconds"), 0,
        "How long browsers keep it, from when it was set (0 = until they are closed)."),
), or_false=True)
# fmt: on
