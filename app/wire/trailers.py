"""Which trailer fields are passed on (RFC 9110 §6.5.1).

Owns the list of what is safe. A trailer field may be merged into the head by whoever comes next, behind all
that was checked there; and anybody on the way may discard it, so nothing that matters may rely on one. What
is not safe is discarded, never a reason to refuse a message whose content is whole. Pure.
"""

from __future__ import annotations

Fields = list[tuple[bytes, bytes]]

# Whose definitions speak of trailers: RFC 9110 §8.8.3, §11.6.3, §14.3, RFC 9530 §2, §3 (and what was before
# it), RFC 9421 §4, Server Timing §2; and checksums and signatures of a body, by the names that
# they are given: they stand behind it by their nature.
_SAFE = frozenset(
    (
        b"accept-ranges",
        b"authentication-info",
        b"content-digest",
        b"content-md5",
        b"digest",
        b"etag",
        b"proxy-authentication-info",
        b"repr-digest",
        b"server-timing",
        b"signature",
        b"signature-input",
        b"x-amz-trailer-signature",
        b"x-content-md5",
        b"x-goog-hash",
        b"x-hash",
        b"x-md5",
        b"x-sum",
    )
)
_SAFE_PREFIXES = (
    *(b"grpc-", b"x-amz-checksum-", b"x-checksum", b"x-content-sha"),
    *(b"x-sha1", b"x-sha2", b"x-sha5"),
)

# RFC 9110 §6.5.1: what frames, routes, authenticates, says what the content is or controls the answer means
# something at the beginning only. Whatever else an answer announces in Trailer its server has meant to say.
_NEVER = frozenset(
    (
        b"age",
        b"allow",
        b"alt-svc",
        b"authorization",
        b"cache-control",
        b"cdn-loop",
        b"clear-site-data",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-location",
        b"content-range",
        b"content-security-policy",
        b"content-type",
        b"cookie",
        b"date",
        b"early-data",
        b"expect",
        b"expires",
        b"forwarded",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"last-modified",
        b"location",
        b"max-forwards",
        b"proxy",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"range",
        b"refresh",
        b"retry-after",
        b"set-cookie",
        b"strict-transport-security",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"vary",
        b"via",
        b"www-authenticate",
        b"x-real-ip",
        b"x-request-id",
    )
)
_NEVER_PREFIXES = (b"access-control-", b"x-forwarded-")


def is_safe(name: bytes) -> bool:
    """Whether a field of this name is passed on whoever says it. Of clients nothing else is."""
    lowered = name.lower()
    # A name with "_" never is: X_A is X-A to a CGI-style reader.
    return lowered in _SAFE or (lowered.startswith(_SAFE_PREFIXES) and b"_" not in lowered)


def of_answer(trailers: Fields, fields: Fields) -> Fields:
    """Those of an answer's trailer fields that are passed on; ``fields`` are those of its head.

    Besides the safe ones: what the head announces in Trailer, and of gRPC, whose servers say their own
    metadata there without announcing it, everything; but for what means nothing or harm at the end.
    """
    announced: set[bytes] = set()
    is_grpc = False
    for name, value in fields:
        lowered = name.lower()
        if lowered == b"trailer":
            announced.update(member.strip(b" \t") for member in value.lower().split(b","))
        elif lowered == b"content-type":
            is_grpc = value.lower().startswith(b"application/grpc")
    return [
        (name, value)
        for name, value in trailers
        if is_safe(name) or ((is_grpc or name.lower() in announced) and not _is_barred(name))
    ]


def _is_barred(name: bytes) -> bool:
    lowered = name.lower()
    return lowered in _NEVER or lowered.startswith(_NEVER_PREFIXES)
