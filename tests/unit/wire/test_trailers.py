"""Which trailer fields are passed on: a list of what is safe, and what a server has meant to say."""

from __future__ import annotations

import pytest

from app.wire.trailers import is_safe, of_answer

GRPC = [(b"content-type", b"Application/gRPC-web+proto")]


@pytest.mark.parametrize(
    "name",
    [
        *(b"ETag", b"grpc-status", b"Grpc-Status-Details-Bin", b"Server-Timing", b"Digest"),
        *(b"Content-Digest", b"repr-digest", b"X-Checksum", b"x-amz-checksum-sha256", b"X-SHA256"),
    ],
)
def test_what_is_safe(name: bytes) -> None:
    """From anybody, in any case."""
    assert is_safe(name)
    assert of_answer([(name, b"1")], []) == [(name, b"1")]


@pytest.mark.parametrize(
    "name",
    [
        *(b"Host", b"Content-Length", b"Transfer-Encoding", b"Trailer", b"Connection", b"Age"),
        *(b"Cache-Control", b"Content-Type", b"Via", b"X-Request-Id", b"Cookie", b"Authorization"),
        *(b"X-Forwarded-For", b"X-Forwarded-Anything", b"X-Real-IP", b"Location", b"Vary"),
        *(b"Access-Control-Allow-Origin", b"Strict-Transport-Security", b"Proxy-Authenticate"),
        b"Set-Cookie",
    ],
)
def test_what_means_something_in_the_head_only(name: bytes) -> None:
    """Announced or not, gRPC or not, in any case."""
    assert not is_safe(name)
    for spelled in (name, name.lower(), name.upper()):
        assert of_answer([(spelled, b"1")], [*GRPC, (b"Trailer", name)]) == []


def test_of_an_answer_also_what_it_announces() -> None:
    """In any of its Trailer fields."""
    fields = [(b"Trailer", b"X-A , x-b"), (b"trailer", b"X-C")]
    trailers = [(b"x-a", b"1"), (b"X-B", b"2"), (b"X-c", b"3"), (b"X-D", b"4")]
    assert of_answer(trailers, fields) == trailers[:3]
    assert of_answer(trailers, []) == []


def test_of_grpc_everything() -> None:
    """Its servers announce nothing."""
    assert of_answer([(b"my-meta_data", b"1")], GRPC) == [(b"my-meta_data", b"1")]


@pytest.mark.parametrize(
    "name", [b"X-User", b"Remote-User", b"grpc_status", b"x-checksum_a", b"X-Shared-Secret"]
)
def test_what_is_not_known_to_be_safe_is_not(name: bytes) -> None:
    """Nor what a CGI-style reader takes for another name."""
    assert not is_safe(name)
