"""Checks of single values: each takes what was written and returns it as Config holds it.

Owns the forms that texts must have (URLs, hosts, networks, names, status codes) and the exact words of each
refusal: a ConfigError without a path, which the caller puts in front. Runs wherever a configuration is read.
Pure; must never know which key a value is for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from app.config.model import DEFAULT_PORTS
from app.config.problems import Problem, got, key_path, kind_of, plain_text, refuse, suggest
from app.policies import Definition
from app.wire import fields
from app.wire.authority import bracketed

SECRET_LENGTH = 16
UNIX_PATH_BYTES = 107  # sockaddr_un.sun_path holds 108 with its final NUL (unix(7))

HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 §5.6.2
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(?:\.|\Z))+"
)
_URL_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")
_URL_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")  # RFC 3986 §3.3
_STATUS_RANGE = re.compile(r"\s*([0-9]{3})\s*(?:-\s*([0-9]{3})\s*)?")
# Written by the probe itself, or meant for one connection only (RFC 9110 §7.6.1).
_PROBE_OWN_HEADERS = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade"}
)  # fmt: skip


DOTTED = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*"
HASH_ON: str = rf"(client_ip|path|header:{HEADER_NAME}|cookie:{HEADER_NAME}|query:[!-%'-<>-~]+)"


def hash_on(text: str) -> str:
    """What of a request its key is, as config.json names it."""
    if not re.fullmatch(HASH_ON, text):
        kinds = "client_ip, path, header:Name, cookie:name or query:name"
        refuse(f"must be {kinds}, got {got(text)}")
    return text


def scalar(value: Any) -> Any:
    """An option of a user's own policy class: a list or object could be changed after it was checked."""
    if not isinstance(value, (str, int, float)):
        refuse(f"must be a string, a number or a boolean, got {got(value)}")
    return value


def option_problems(
    definition: Definition, given: Mapping[str, Any], has_key: bool
) -> Iterator[Problem]:
    """What is wrong with the options of one of our policies; ``has_key``: it takes hash_on too."""
    known = [option.name for option in definition.options] + ["hash_on"] * has_key
    for name, message in definition.problems(given):
        if name in known:
            yield Problem(name, message)
        else:
            listed = f"; there are {', '.join(known)}" if known else "; it has none"
            hint = suggest(name, known) or listed
            yield Problem(key_path(name), f"is not an option of {definition.name}{hint}")


def listen_host(text: str) -> str:
    """An address or a name to listen on, addresses in their one spelling."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if _is_host_name(text):
            return text
    refuse(f"must be an IP address or a host name, without port or brackets, got {got(text)}")


def host_field(text: str) -> str:
    """The value of a Host header, with a port if wanted, kept as written."""
    _split_authority(text)
    return text


def probe_path(text: str) -> str:
    """The target of a health check's request."""
    if not text.startswith("/"):
        refuse(f'must begin with "/", got {got(text)}')
    if not re.fullmatch(r'[!"$-~]+', text):
        refuse("must be ASCII without spaces or #: write others as %XX")
    return text


def regex(text: str) -> str:
    """A regular expression that compiles. How long it may search is bounded where it is used."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        refuse(f"is not a regular expression: {error}")
    return text


def network(text: str) -> str:
    """An address or a CIDR block, as the block that it is: 10.0.0.5 becomes 10.0.0.5/32."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        refuse(f'must be an address or a CIDR such as "10.0.0.0/8", got {got(text)}')
    refuse(f'has bits set after its prefix: write "{network}", got {got(text)}')


def parameter(text: str) -> str:
    """The bare name of a query parameter, in small letters: they are compared without case."""
    if re.search(r"[&;=\s\[\]]", text):
        refuse(f"must be the bare name of a query parameter, got {got(text)}")
    return text.lower()


def server_header(text: str) -> str:
    """A Server header's value. RFC 9110 §10.2.4 wants product names; any printable text is taken."""
    if not text.isascii() or text != text.strip():
        refuse(
            f'must be "pass", "none" or printable ASCII without spaces around it, got {got(text)}'
        )
    return text


def protocol(text: str) -> str:
    """The name of a protocol in an Upgrade field, in small letters: case has no meaning (RFC 9110 §7.8)."""
    if not re.fullmatch(HEADER_NAME, text):
        refuse(f'must be a name such as "websocket", without a version, got {got(text)}')
    return text.lower()


def cipher(text: str) -> str:
    """OpenSSL's name of a cipher suite of TLS 1.2; whether there is one of that name, app.tls knows."""
    if text.startswith("TLS_"):
        refuse(
            f"{text} is of TLS 1.3, or IANA's name: those of TLS 1.2, by OpenSSL's names, are chosen here"
        )
    if not re.fullmatch(r"[A-Z0-9][A-Z0-9-]*", text):
        refuse(f"must be a name such as ECDHE-RSA-AES128-GCM-SHA256, got {got(text)}")
    return text


def curve(text: str) -> str:
    """The name of a group for the key exchange; whether there is one of that name, app.tls knows."""
    if not re.fullmatch(r"[A-Za-z0-9-]+", text):
        refuse(f"must be a name such as X25519, got {got(text)}")
    return text


def claimed_header(text: str) -> str:
    """The name of a request field that only trusted proxies may send, or how such names begin, with "*"."""
    name = text.removesuffix("*")
    if not re.fullmatch(HEADER_NAME, name):
        refuse(f'must be a header name, or the beginning of one and "*", got {got(text)}')
    if "_" in name:
        refuse("has an underscore: such headers reach no server from anybody")
    if text == name and fields.has_meaning(name.lower().encode("ascii")):
        refuse("has a meaning of its own here, whoever sends it")
    return text


def cookie_name(text: str) -> str:
    """The name of a cookie: a token (RFC 6265 §4.1.1)."""
    if not re.fullmatch(HEADER_NAME, text):
        refuse(f"must be letters, digits and !#$%&'*+-.^_`|~ only, got {got(text)}")
    return text


def cookie_path(text: str) -> str:
    """The Path attribute of a cookie."""
    if not re.fullmatch(r"/[!-:<-~]*", text):
        refuse(f'must begin with "/" and be ASCII without spaces or ;, got {got(text)}')
    return text


def secret(text: str) -> str:
    """A secret, never repeated in a problem. 16 random characters are 64 bits at least: not to be guessed."""
    if len(text) < SECRET_LENGTH:
        refuse(
            f"must have at least {SECRET_LENGTH} characters: openssl rand -hex 32 makes a good one"
        )
    return text


def header_name(text: str) -> str:
    """The name of a header field that a health check may be given."""
    if not re.fullmatch(HEADER_NAME, text):
        refuse("is not a header name: only letters, digits and !#$%&'*+-.^_`|~")
    if text.lower() == "host":
        refuse("must not be set here: use health_check.host")
    if text.lower() in _PROBE_OWN_HEADERS:
        refuse("must not be set here: the probe writes it itself")
    return text


def header_value(value: Any) -> str:
    """The value of such a field, never repeated in a problem: it may be a credential."""
    if not isinstance(value, str):
        refuse(f"must be a string, got {kind_of(value)}")
    text = plain_text(value)
    if not text.isascii() or text != text.strip():
        refuse("must be printable ASCII without spaces around it")
    return text


def status_ranges(value: Any) -> list[tuple[int, int]]:
    text = str(value) if type(value) is int else value
    parts = text.split(",") if isinstance(text, str) else [""]
    matches = [_STATUS_RANGE.fullmatch(part) for part in parts]
    if None in matches:
        refuse(f'must be like 200, "200-399" or "200,204,300-399", got {got(value)}')
    ranges = [(int(match[1]), int(match[2] or match[1])) for match in matches if match]
    for low, high in ranges:
        if not (100 <= low <= 599 and 100 <= high <= 599):
            refuse(f"must have status codes from 100 to 599, got {got(value)}")
        if low > high:
            refuse(f'has a range that ends before it begins: write "{high}-{low}"')
    return ranges


def merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def normal_url(text: str) -> str:
    """A server's URL in its one spelling, which is the server's identity."""
    scheme, host, port, prefix = split_url(text)
    if scheme == "unix":
        return f"unix:{host}"
    shown_port = "" if port == DEFAULT_PORTS[scheme] else f":{port}"
    return f"{scheme}://{bracketed(host)}{shown_port}{prefix}"


def split_url(text: str) -> tuple[str, str, int, str]:
    """Scheme, host, port, prefix of a server's URL; for unix: the path as host, and port 0.

    By hand: urllib.parse drops tabs and newlines and mends much.
    """
    if " " in text:  # the one space that is printable
        refuse("must not contain spaces")
    if text[:5].lower() == "unix:":
        return "unix", _unix_path(text[5:]), 0, ""
    parts = _URL_PARTS.fullmatch(text)
    if parts is None:
        _refuse_schemeless(text)
    scheme, authority, path, query, fragment = parts.groups()
    if "@" in authority:  # first, so that no later message repeats a password
        refuse("must not contain a user name or password (the part before @)")
    scheme = scheme.lower()
    if scheme not in DEFAULT_PORTS:
        refuse(f'must begin with http://, https:// or unix:/, got "{scheme}://"')
    if query is not None:
        refuse("must not contain a query (the part from ?): a request brings its own")
    if fragment is not None:
        refuse("must not contain a fragment (the part from #): it is never sent to a server")
    host, port = _split_authority(authority)
    if not _URL_PATH.fullmatch(path):
        refuse("has a path with characters that no URL may have: write them as %XX")
    return scheme, host.lower(), DEFAULT_PORTS[scheme] if port is None else port, path.rstrip("/")


def _unix_path(path: str) -> str:
    if path.startswith("//"):
        refuse(f"must be written with one slash: unix:/{path.lstrip('/')}")
    if not path.startswith("/"):
        refuse("must have an absolute path: unix:/run/app.sock")
    if "?" in path or "#" in path:
        refuse("must not contain ? or #")
    if path.endswith("/"):
        refuse("must name a socket, not a directory")
    size = len(path.encode())
    if size > UNIX_PATH_BYTES:
        refuse(f"has a path of {size} bytes; a Unix socket's may have {UNIX_PATH_BYTES}")
    return path


def _refuse_schemeless(text: str) -> NoReturn:
    scheme = "https" if text.lower().startswith("https:") else "http"
    rest = re.sub(r"^(?:https?:)?/*", "", text, flags=re.IGNORECASE)
    shown = rest if rest and "@" not in rest else "host:port"
    refuse(f"has no scheme: write {scheme}://{shown}")


def _split_authority(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        host, bracket, after = text[1:].partition("]")
        if not bracket or after[:1] not in ("", ":"):
            refuse(f"has brackets that are not around an IPv6 address, got {got(text)}")
        host, colon, port = _ipv6(host), after[:1], after[1:]
    else:
        host, colon, port = text.partition(":")
        if ":" in port:
            refuse("has too many colons: write an IPv6 address in brackets, as in [::1]")
        _check_host(host)
    if not colon:
        return host, None
    if not re.fullmatch(r"[0-9]{1,9}", port):
        refuse("must have a number as its port, behind the colon")  # not quoted: may be a password
    if not 1 <= int(port) <= 65_535:
        refuse(f"must have a port from 1 to 65535, got {int(port)}")
    return host, int(port)


def _ipv6(text: str) -> str:
    if "%" in text:
        refuse("must not have an IPv6 zone (the part from %)")
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        refuse(f"has brackets that are not around an IPv6 address, got {got(text)}")


def _check_host(host: str) -> None:
    if not host:
        refuse("has no host")
    if not host.isascii():
        refuse(f"has a host that is not ASCII: write its punycode form (xn--…), got {got(host)}")
    if not _is_host_name(host):
        refuse(f"has a host that is neither an address nor a host name, got {got(host)}")


def _is_host_name(text: str) -> bool:
    """A DNS name (with _ as Compose and Kubernetes users have it), or a plain IPv4 address.

    A last label of digits is an IPv4 address to every resolver, in spellings such as 127.1 or
    0x7f.1 that differ between them: only the one form that all agree on is taken.
    """
    if re.search(r"(?:^|\.)(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?$", text):
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            return False
    return _HOST_NAME.fullmatch(text) is not None
