"""What we forward says the same to every reader: our test reader, h11 as a server, gunicorn's parsers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from replay import corpus, messages, mutations, offline, others
from replay.judge import ADDED

CASES = [case for case in corpus.load() if not case.is_about_responses]
SEEDS = st.sampled_from([case.request for case in CASES if len(case.request) < 4096])
# As many fields as a client may send, and ours.
MAX_FIELDS = 100 + len(ADDED) + 2
FRAMING = (b"content-length", b"transfer-encoding")
# Whose lack of a body is told (RFC 9110 §8.6).
HAS_A_BODY = (b"POST ", b"PUT ", b"PATCH ")


def forwarded(request: bytes, cuts: list[int]) -> bytes:
    """The bytes that the backend gets."""
    case = corpus.Case("round trip", "generated", request)
    transcript = offline.replay(
        case,
        lambda data: corpus.pieces(data, [c % (len(data) + 1) for c in cuts]),
        lambda data: [data],
    )
    return b"".join(transcript.backend)


def read_alike(data: bytes) -> list[messages.Message]:
    """Every whole request in ``data``, after all readers have agreed about it."""
    found = []
    while data and (read := messages.read_request(data)) is not None:
        message, rest = read
        one = data[: len(data) - len(rest)]
        method, target, _ = message.start.split(b" ")
        fields = [(name.lower(), value) for name, value in message.fields]
        readings = [
            others.by_h11(one),
            *(others.by_gunicorn(one, parser, MAX_FIELDS) for parser in others.PARSERS),
        ]
        for reading in readings:
            assert reading is not None
            assert (reading.method, reading.target, reading.body) == (method, target, message.body)
            assert [pair for pair in reading.fields if pair[0] not in FRAMING] == fields
        found.append(message)
        data = rest
    return found


@settings(max_examples=250, derandomize=True)
@given(mutations.valid(), st.lists(st.integers(0, 1000), max_size=4))
def test_valid_requests(request: bytes, cuts: list[int]) -> None:
    """A valid request arrives as it was: method, target, fields, body."""
    (seen,) = read_alike(forwarded(request, cuts))
    read = messages.read_request(request)
    assert read is not None
    sent = read[0]
    is_told = sent.framing == "none" and sent.start.startswith(HAS_A_BODY)
    framing = "length" if is_told else sent.framing
    assert (seen.start, seen.body, seen.framing) == (sent.start, sent.body, framing)
    assert seen.without(*ADDED) == sent.fields


@settings(max_examples=600, derandomize=True)
@given(
    mutations.bent(st.one_of(mutations.valid(), SEEDS)), st.lists(st.integers(0, 1000), max_size=4)
)
def test_bent_requests(request: bytes, cuts: list[int]) -> None:
    """Whatever of a bent request is forwarded has one reading, and one Host."""
    for message in read_alike(forwarded(request, cuts)):
        assert len(message.get_all(b"host")) == 1
        for name in ADDED:
            assert len(message.get_all(name)) == 1
