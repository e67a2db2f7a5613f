"""Upgrade fields: what of a client's wish is passed on, and which 101 is an answer to it."""

from __future__ import annotations

import pytest

from app.wire.upgrade import accepts, offer

ALLOWED = frozenset((b"websocket", b"tcp"))


@pytest.mark.parametrize(
    ("asked", "offered"),
    [
        (b"websocket", b"websocket"),
        (b"WebSocket", b"WebSocket"),
        (b"h2c", b""),
        (b"", b""),
        (b" , ,", b""),
        (b"h2c, websocket", b"websocket"),
        (b"tcp,websocket", b"tcp, websocket"),
        (b"websocket/13", b"websocket/13"),
        (b"websocket/", b""),
        (b"websocket/1 3", b""),
        (b"web socket", b""),
        (b"websocket\t, TCP", b"websocket, TCP"),
        (b"websocketx", b""),
        (b"websocket/13/14", b""),
    ],
)
def test_only_allowed_protocols_are_offered(asked: bytes, offered: bytes) -> None:
    """Names are compared without case, order and spelling stay, what is no protocol is left out."""
    assert offer(asked, ALLOWED) == offered


def test_an_offer_has_a_bound() -> None:
    """A server need not switch to any of it."""
    assert offer(b"websocket," * 3000, ALLOWED) == b", ".join([b"websocket"] * 16)
    assert not accepts(b"websocket," * 3000 + b"websocket", b"websocket")


@pytest.mark.parametrize(
    ("answer", "offered", "is_accepted"),
    [
        (b"websocket", b"websocket", True),
        (b"WebSocket", b"websocket", True),
        (b"websocket", b"tcp, WebSocket/13", True),
        (b"h2c", b"websocket", False),
        (b"websocket, h2c", b"websocket", False),
        (None, b"websocket", False),
        (b"", b"websocket", False),
        (b"websocket", b"", False),
        (b"websocket,", b"websocket", False),
        (b"", b"", False),
        (b"web socket", b"web socket", False),
    ],
)
def test_a_switch_is_an_answer_to_an_offer(
    answer: bytes | None, offered: bytes, is_accepted: bool
) -> None:
    """A 101 must name a protocol, and only such as were offered."""
    assert accepts(answer, offered) is is_accepted
