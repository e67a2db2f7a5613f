"""Texts with a form of their own: URLs, hosts, networks, names, status codes."""

from __future__ import annotations

import json

import pytest

from app import config as configuration
from app.config import (
    parse,
)
from tests.unit.config.refusals import refusals


def one_server(url: str) -> configuration.Server:
    return parse(json.dumps({"servers": [url]})).servers[0]


@pytest.mark.parametrize(
    ("written", "url", "scheme", "host", "port", "prefix", "name"),
    [
        ("http://127.0.0.1:8001", "http://127.0.0.1:8001", "http", "127.0.0.1", 8001, "",
         "127.0.0.1:8001"),
        ("HTTP://Example.COM/", "http://example.com", "http", "example.com", 80, "",
         "example.com:80"),
        ("http://h:80", "http://h", "http", "h", 80, "", "h:80"),
        ("http://h:443", "http://h:443", "http", "h", 443, "", "h:443"),
        ("https://h:443/", "https://h", "https", "h", 443, "", "h:443"),
        ("https://h:0080", "https://h:80", "https", "h", 80, "", "h:80"),
        ("http://[::1]:8001", "http://[::1]:8001", "http", "::1", 8001, "", "[::1]:8001"),
        ("http://[2001:DB8:0:0::1]/x", "http://[2001:db8::1]/x", "http", "2001:db8::1", 80, "/x",
         "[2001:db8::1]:80/x"),
        ("http://127.0.0.1:8001/prefix/", "http://127.0.0.1:8001/prefix", "http", "127.0.0.1",
         8001, "/prefix", "127.0.0.1:8001/prefix"),
        ("http://h/A%2fb/%7E;c=d", "http://h/A%2fb/%7E;c=d", "http", "h", 80, "/A%2fb/%7E;c=d",
         "h:80/A%2fb/%7E;c=d"),
        ("http://my_app-1.svc.", "http://my_app-1.svc.", "http", "my_app-1.svc.", 80, "",
         "my_app-1.svc.:80"),
        ("unix:/run/App.sock", "unix:/run/App.sock", "unix", "/run/App.sock", 0, "",
         "unix:/run/App.sock"),
        ("UNIX:/run/ü.sock", "unix:/run/ü.sock", "unix", "/run/ü.sock", 0, "", "unix:/run/ü.sock"),
    ],
)  # fmt: skip
def test_server_urls(
    written: str, url: str, scheme: str, host: str, port: int, prefix: str, name: str
) -> None:
    """A URL is split and normalised, and the bytes of its prefix are never changed."""
    server = one_server(written)
    assert (server.url, server.scheme, server.host) == (url, scheme, host)
    assert (server.port, server.prefix, server.name) == (port, prefix, name)


BAD_URLS = [
    ("", "must not be empty"),
    ("127.0.0.1:8001", "has no scheme: write http://127.0.0.1:8001"),
    ("localhost:8001/x", "has no scheme: write http://localhost:8001/x"),
    ("//h:1", "has no scheme: write http://h:1"),
    ("http:/h:1", "has no scheme: write http://h:1"),
    ("https:h", "has no scheme: write https://h"),
    ("http:", "has no scheme: write http://host:port"),
    ("u:secret@h:1", "has no scheme: write http://host:port"),
    ("tcp://h:1", 'must begin with http://, https:// or unix:/, got "tcp://"'),
    ("http://u:secret@h", "must not contain a user name or password (the part before @)"),
    ("ftp://u:secret@h", "must not contain a user name or password (the part before @)"),
    ("http://h/?a=b", "must not contain a query (the part from ?): a request brings its own"),
    ("http://h?", "must not contain a query (the part from ?): a request brings its own"),
    ("http://h#f",
     "must not contain a fragment (the part from #): it is never sent to a server"),
    ("http://", "has no host"),
    ("http:///path", "has no host"),
    ("http://:80", "has no host"),
    ("http://h:", "must have a number as its port, behind the colon"),
    ("http://h:http", "must have a number as its port, behind the colon"),
    ("http://h:-1", "must have a number as its port, behind the colon"),
    ("http://h:٣", "must have a number as its port, behind the colon"),
    ("http://h:0", "must have a port from 1 to 65535, got 0"),
    ("http://h:65536", "must have a port from 1 to 65535, got 65536"),
    ("http://::1:80", "has too many colons: write an IPv6 address in brackets, as in [::1]"),
    ("http://[::1", 'has brackets that are not around an IPv6 address, got "[::1"'),
    ("http://[::1]x", 'has brackets that are not around an IPv6 address, got "[::1]x"'),
    ("http://[1.2.3.4]", 'has brackets that are not around an IPv6 address, got "1.2.3.4"'),
    ("http://[fe80::1%25eth0]", "must not have an IPv6 zone (the part from %)"),
    ("http://bücher.example",
     'has a host that is not ASCII: write its punycode form (xn--…), got "bücher.example"'),
    ("http://a..b", 'has a host that is neither an address nor a host name, got "a..b"'),
    ("http://-a", 'has a host that is neither an address nor a host name, got "-a"'),
    ("http://a%41", 'has a host that is neither an address nor a host name, got "a%41"'),
    ("http://127.1", 'has a host that is neither an address nor a host name, got "127.1"'),
    ("http://1.2.3.999", 'has a host that is neither an address nor a host name, got "1.2.3.999"'),
    ("http://0x7f.0x1", 'has a host that is neither an address nor a host name, got "0x7f.0x1"'),
    ("http://h\\x", 'has a host that is neither an address nor a host name, got "h\\\\x"'),
    ("http://h/ü", "has a path with characters that no URL may have: write them as %XX"),
    ("http://h/%4", "has a path with characters that no URL may have: write them as %XX"),
    ('http://h/"', "has a path with characters that no URL may have: write them as %XX"),
    ("http://h /", "must not contain spaces"),
    (" http://h", "must not contain spaces"),
    ("http://h\t", "must not contain control characters, found U+0009"),
    ("http://h\r\nX: y", "must not contain control characters, found U+000D"),
    ("http://h\u00a0", "must not contain control characters, found U+00A0"),
    ("http://h/\ud800", "must not contain control characters, found U+D800"),
    ("unix:run/app.sock", "must have an absolute path: unix:/run/app.sock"),
    ("unix:", "must have an absolute path: unix:/run/app.sock"),
    ("unix:///run/app.sock", "must be written with one slash: unix:/run/app.sock"),
    ("unix:/run/", "must name a socket, not a directory"),
    ("unix:/run/a?b", "must not contain ? or #"),
    ("unix:/" + "é" * 60, "has a path of 121 bytes; a Unix socket's may have 107"),
]  # fmt: skip


@pytest.mark.parametrize(("url", "message"), BAD_URLS)
def test_bad_server_urls(url: str, message: str) -> None:
    """A URL that cannot be meant is refused with what is wrong, in both forms of a server."""
    assert refusals(json.dumps({"servers": [url]})) == [f"servers[0]: {message}"]
    assert refusals(json.dumps({"servers": [{"url": url}]})) == [f"servers[0].url: {message}"]


@pytest.mark.parametrize("url", [url for url, _ in BAD_URLS if "secret" in url])
def test_a_password_is_never_repeated(url: str) -> None:
    """What may be a credential does not reach the terminal or the log."""
    assert "secret" not in refusals(json.dumps({"servers": [url]}))[0]


def test_the_longest_unix_path_is_taken() -> None:
    """107 bytes fit into sun_path, 108 do not."""
    assert len(one_server("unix:/" + "a" * 106).host) == 107
    assert refusals(json.dumps({"servers": ["unix:/" + "a" * 107]})) != []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"host": "a\\u0000b"}', "host: must not contain control characters, found U+0000"),
        ('{"host": "[::]"}',
         'host: must be an IP address or a host name, without port or brackets, got "[::]"'),
        ('{"host": "0.0.0.0:80"}',
         'host: must be an IP address or a host name, without port or brackets, got "0.0.0.0:80"'),
        ('{"health_check": {"path": "health"}}',
         'health_check.path: must begin with "/", got "health"'),
        ('{"health_check": {"path": "/a b"}}',
         "health_check.path: must be ASCII without spaces or #: write others as %XX"),
        ('{"health_check": {"path": "/#"}}',
         "health_check.path: must be ASCII without spaces or #: write others as %XX"),
        ('{"health_check": {"path": "/\\r\\nHost: x"}}',
         "health_check.path: must not contain control characters, found U+000D"),
        ('{"health_check": {"body_regex": "(up"}}',
         "health_check.body_regex: is not a regular expression: missing ), "
         "unterminated subpattern at position 0"),
        ('{"health_check": {"body": ""}}', "health_check.body: must not be empty"),
        ('{"health_check": {"host": "a b"}}',
         "health_check.host: has a host that is neither an address nor a host name, "
         'got "a b"'),
        ('{"health_check": {"host": "a:0"}}',
         "health_check.host: must have a port from 1 to 65535, got 0"),
        ('{"health_check": {"headers": {"A": 1}}}',
         "health_check.headers.A: must be a string, got a number"),
        ('{"health_check": {"headers": {"A": "x\\r\\nB: y"}}}',
         "health_check.headers.A: must not contain control characters, found U+000D"),
        ('{"health_check": {"headers": {"A": " x"}}}',
         "health_check.headers.A: must be printable ASCII without spaces around it"),
        ('{"health_check": {"headers": {"A": "é"}}}',
         "health_check.headers.A: must be printable ASCII without spaces around it"),
        ('{"health_check": {"headers": {"A b": "x"}}}',
         'health_check.headers["A b"]: is not a header name: only letters, digits and '
         "!#$%&'*+-.^_`|~"),
        ('{"health_check": {"headers": {"HOST": "x"}}}',
         "health_check.headers.HOST: must not be set here: use health_check.host"),
        ('{"health_check": {"headers": {"Content-Length": "5"}}}',
         "health_check.headers.Content-Length: must not be set here: the probe writes it itself"),
        ('{"health_check": {"expected_status": "2xx"}}',
         'health_check.expected_status: must be like 200, "200-399" or "200,204,300-399", '
         'got "2xx"'),
        ('{"health_check": {"expected_status": true}}',
         'health_check.expected_status: must be like 200, "200-399" or "200,204,300-399", '
         "got true"),
        ('{"health_check": {"expected_status": [200, null]}}',
         'health_check.expected_status[1]: must be like 200, "200-399" or "200,204,300-399", '
         "got null"),
        ('{"health_check": {"expected_status": 99}}',
         'health_check.expected_status: must be like 200, "200-399" or "200,204,300-399", got 99'),
        ('{"health_check": {"expected_status": 600}}',
         "health_check.expected_status: must have status codes from 100 to 599, got 600"),
        ('{"health_check": {"expected_status": "399-200"}}',
         'health_check.expected_status: has a range that ends before it begins: write "200-399"'),
        ('{"logging": {"redact": ["a=b"]}}',
         'logging.redact[0]: must be the bare name of a query parameter, got "a=b"'),
        ('{"server_header": " x"}',
         'server_header: must be "pass", "none" or printable ASCII without spaces around it, got " x"'),
        ('{"trusted_headers": ["*"]}',
         'trusted_headers[0]: must be a header name, or the beginning of one and "*", got "*"'),
        ('{"trusted_headers": ["Remote_User"]}',
         "trusted_headers[0]: has an underscore: such headers reach no server from anybody"),
        ('{"trusted_headers": ["Host"]}',
         "trusted_headers[0]: has a meaning of its own here, whoever sends it"),
        ('{"trusted_proxies": ["*"]}',
         'trusted_proxies[0]: must be an address or a CIDR such as "10.0.0.0/8", got "*"'),
        ('{"trusted_proxies": ["10.0.0.1/8"]}',
         'trusted_proxies[0]: has bits set after its prefix: write "10.0.0.0/8", '
         'got "10.0.0.1/8"'),
        ('{"backend_tls": {"server_name": "a b"}}',
         "backend_tls.server_name: must be an IP address or a host name, without port or brackets, "
         'got "a b"'),
        ('{"sticky": {"secret": "too short"}}',
         "sticky.secret: must have at least 16 characters: openssl rand -hex 32 makes a good one"),
        ('{"sticky": {"cookie": "a b"}}',
         "sticky.cookie: must be letters, digits and !#$%&'*+-.^_`|~ only, got \"a b\""),
        ('{"sticky": {"path": "/a;b"}}',
         'sticky.path: must begin with "/" and be ASCII without spaces or ;, got "/a;b"'),
        ('{"upgrade": ["HTTP/2.0"]}',
         'upgrade[0]: must be a name such as "websocket", without a version, got "HTTP/2.0"'),
    ],
)  # fmt: skip
def test_refusals(text: str, message: str) -> None:
    """A text that is not of its form is refused, in words that name the form and what was found."""
    assert refusals(text) == [message]
