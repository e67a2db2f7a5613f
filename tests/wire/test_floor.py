"""The strictness of gunicorn's own message parser is the floor: what it refuses never gets past ours."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import corpus, mutations, others

from app.errors import BadRequest
from app.wire.chunked import ChunkedDecoder, ChunkedError
from app.wire.request import CHUNKED, read_head

CASES = [case for case in corpus.load() if not case.is_about_responses]
REQUESTS = st.one_of(
    mutations.valid(), st.sampled_from([case.request for case in CASES if len(case.request) < 4096])
)


def is_complete(data: bytes) -> bool:
    """Whether our parser takes a whole request from the start of ``data``."""
    try:
        head = read_head(data)
        if head is None:
            return False
        body = data[head.consumed :]
        if head.length != CHUNKED:
            return len(body) >= head.length
        decoder = ChunkedDecoder()
        decoder.feed(body)
    except (BadRequest, ChunkedError):
        return False
    return decoder.done


@pytest.mark.parametrize("parser", others.PARSERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.identity)
def test_cases(case: corpus.Case, parser: str) -> None:
    """No case is taken that gunicorn refuses, but for what is forgiven on purpose."""
    if others.by_gunicorn(others.without_forgiven(case.request), parser) is None:
        assert not is_complete(case.request)


@settings(max_examples=1000, derandomize=True)
@given(mutations.bent(REQUESTS))
def test_bent_requests(data: bytes) -> None:
    """Nor are requests with a few bytes changed, for both of gunicorn's parsers."""
    if is_complete(data):
        for parser in others.PARSERS:
            assert others.by_gunicorn(others.without_forgiven(data), parser) is not None, parser


@settings(max_examples=200, derandomize=True)
@given(mutations.valid())
def test_valid_requests_are_taken(data: bytes) -> None:
    """The floor says nothing if everything is refused: what is valid is taken by all."""
    assert is_complete(data)
    for parser in others.PARSERS:
        assert others.by_gunicorn(data, parser) is not None


@settings(max_examples=600, derandomize=True)
@given(mutations.bent(REQUESTS), st.lists(st.integers(0, 400), max_size=5))
def test_pieces_change_nothing(data: bytes, cuts: list[int]) -> None:
    """A head that is taken as it grows is the head that is taken whole."""

    def verdict(points: list[int]) -> object:
        seen = 0
        for end in [*sorted(min(point, len(data)) for point in points), len(data)]:
            try:
                head = read_head(data[:end], seen)
            except BadRequest as error:
                return error.status
            if head is not None:
                return head.method, head.target, head.lines, head.framing, head.consumed
            seen = end
        return None

    whole, pieces = verdict([]), verdict(cuts)
    # Whether an unfinished head can never become a good one may show earlier or later, and of two faults
    # either may be named; but what is read is read alike.
    if isinstance(whole, tuple) or isinstance(pieces, tuple):
        assert whole == pieces
