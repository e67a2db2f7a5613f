"""The wire cases as seeds for the fuzzer, beside the committed corpus."""

from __future__ import annotations

from pathlib import Path

from replay import corpus

CORPUS = Path(__file__).parent / "corpus"
MAX_SEED = 2048

_FORWARDED = (
    b'for="[2001:db9::7]:4711";proto=https;host="a.example:8443", for=10.0.0.2',
    b"for=_hidden;by=unknown, for=203.0.113.9 ; host=a",
    b'for="x, for=203.0.113.9;proto=http',
)
_OTHERS = (
    b"203.0.113.9, 10.0.0.2\n1.0 fred, HTTP/1.1 load-balancer-0123456789abcdef (x)\nhttps\na.example:80",
    b"[2001:db9::7]:99\n1.1 p (a, b)\nhttp",
    b"",
)
_FIELDS = b"x-some: a\nte: trailers\nexpect: 100-continue\n\0"


def seeds(target: str) -> list[bytes]:
    """Inputs for one target."""
    found = [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]
    if target == "forwarded":
        found += [
            bytes((mode,)) + first + b"\n" + rest
            for mode in range(6)
            for first in _FORWARDED
            for rest in _OTHERS
        ]
    if target == "stream":
        found += [
            bytes((shape,)) + b"content-length: %d\n" % length * bool(length + 1) + _FIELDS + body
            for shape in range(20)
            for length in (-1, 0, 10, 32)
            for body in (b"", b"x" * 10, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        ]
    for case in corpus.load():
        if target == "request" and not case.is_about_responses:
            found.append(case.request)
        elif target == "response" and case.response:
            found.append(b"\0" + case.response)
        elif target == "chunked" and not case.is_about_responses and b"hunked" in case.request:
            found.append(b"\x03\x09" + case.request.partition(b"\r\n\r\n")[2])
    return [data for data in found if len(data) <= MAX_SEED]
