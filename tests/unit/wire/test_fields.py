"""Which fields are special, and what is remembered of the spellings that clients invent."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.wire import claims, fields


@pytest.mark.parametrize("name", [b"Host", b"HOST", b"hOsT"])
def test_names_are_case_insensitive(name: bytes) -> None:
    """RFC 9110 §5.1."""
    assert fields.request_kind(name) == fields.HOST
    assert fields.response_kind(name) == fields.PLAIN


@pytest.mark.parametrize("name", [b"X_A", b"Content_Length", b"_", b"X-Forwarded_For"])
def test_underscores_are_dropped_from_requests(name: bytes) -> None:
    """Two spellings of one CGI variable must not both reach a backend."""
    assert fields.request_kind(name) == fields.DROP
    assert fields.response_kind(name) == fields.PLAIN


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"True-Client-IP", fields.CLAIM),
        (b"X-SSL-Client-Verify", fields.CLAIM),
        (b"X.SSL.Client.Verify", fields.DROP),  # the same CGI variable to some servers
        (b"Remote!User", fields.DROP),
        (b"X.Forwarded.For", fields.DROP),
        (b"Content.Length", fields.DROP),
        (b"X.Other", fields.PLAIN),
        (b"X-Ssl", fields.PLAIN),
    ],
)
def test_what_only_a_trusted_proxy_may_say(name: bytes, kind: int) -> None:
    """By the list that there is by default, and in no spelling that a server may take for it."""
    assert fields.request_kind(name) == kind
    assert fields.response_kind(name) == fields.PLAIN


def test_the_list_can_be_another() -> None:
    """Known spellings are forgotten with it."""
    assert fields.request_kind(b"Remote-User") == fields.CLAIM
    fields.trust_only(["X-Team-*"])
    try:
        assert fields.request_kind(b"Remote-User") == fields.PLAIN
        assert fields.request_kind(b"x-team-a") == fields.CLAIM
        assert fields.request_kind(b"X-Real-IP") == fields.FORWARDED_OTHER
    finally:
        fields.trust_only(claims.DEFAULT)


def test_which_names_have_a_meaning() -> None:
    """They can be in no list."""
    assert fields.has_meaning(b"host")
    assert fields.has_meaning(b"x-forwarded-anything")
    assert not fields.has_meaning(b"remote-user")


@pytest.mark.parametrize(
    "name", [b"", b" ", b"X A", b"X\t", b"X:", b"X\r", b"X\0", b"\xc3\xa4", b"X(", b'"']
)
def test_what_is_no_token_is_refused(name: bytes) -> None:
    """RFC 9110 §5.6.2, for both directions."""
    with pytest.raises(BadRequest) as caught:
        fields.request_kind(name)
    assert caught.value.reason == "bad_header"
    assert fields.response_kind(name) == -1


def test_spellings_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients can invent names without end: neither number nor length of what is kept is theirs to choose."""
    for name in ("request_kinds", "response_kinds", "_connection_options"):
        monkeypatch.setattr(fields, name, {})
    for number in range(10_000):
        fields.request_kind(b"X-%d" % number)
        fields.response_kind(b"X-%d" % number)
        fields.connection_options(b"x-%d" % number)
    long = b"x" * 8000
    assert fields.request_kind(long) == fields.response_kind(long) == fields.PLAIN
    fields.connection_options(b",".join([b"a"] * 4000))
    for known in (fields.request_kinds, fields.response_kinds, fields._connection_options):
        assert len(known) == 4096
        assert max(map(len, known)) <= 64


def test_forgotten_spellings_are_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full memory changes the speed, not the answer."""
    monkeypatch.setattr(fields, "_REMEMBERED", 0)
    monkeypatch.setattr(fields, "request_kinds", {})
    assert fields.request_kind(b"Transfer-ENCODING") == fields.TRANSFER_ENCODING
    assert fields.request_kinds == {}


def test_connection_options() -> None:
    """Options are told from field names, and protected fields are never named."""
    options = fields.connection_options(
        b"Keep-Alive, close,, X-A , Host,x-forwarded-for, TE, upgrade"
    )
    assert (options.close, options.keep_alive, options.te, options.upgrade) == (True,) * 4
    assert options.named == {b"x-a"}


def test_what_is_read_of_a_list_has_a_bound() -> None:
    """What is behind that is one member; of Connection it is known that there was more."""
    names = fields.options(b",".join(b"x-%d" % number for number in range(5000)))
    assert len(names) == fields.MEMBERS_READ + 1
    assert not fields.TOKEN.fullmatch(names[-1])
    assert not fields.connection_options(b"a," * fields.MEMBERS_READ + b"b").is_whole
    assert fields.connection_options(b"a," * (fields.MEMBERS_READ - 1) + b"b").is_whole


def test_without() -> None:
    """Fields go whole, whatever their case, and the others stay as they are."""
    lines = [b"X-A", b": ", b"1", b"\r\n", b"x-b", b": ", b"X-A", b"\r\n"]
    assert fields.without(lines, frozenset((b"x-a",))) == lines[4:]
    assert fields.without(lines, frozenset()) == lines


@settings(derandomize=True)
@given(st.lists(st.sampled_from([b"close", b"X-A", b"", b"keep-alive", b"TE"]), max_size=6))
def test_options_read_what_was_joined(members: list[bytes]) -> None:
    """RFC 9110 §5.6.1: empty members say nothing."""
    assert fields.options(b" ,\t".join(members)) == [member.lower() for member in members if member]
