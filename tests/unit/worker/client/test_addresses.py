"""app.worker.client.addresses: both ends of a client's connection."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import ClientGone
from app.worker.client.addresses import addresses_of

ENDS = (("203.0.113.7", 5000), ("192.0.2.1", 443))


def test_a_header_knows_better_than_the_socket() -> None:
    """The socket is not asked then: its other end is the proxy in front."""
    assert addresses_of(ENDS, None) == ENDS


def test_the_socket_is_asked_for_both_ends() -> None:
    """As it has them, with their ports."""
    raw = SimpleNamespace(getpeername=lambda: ENDS[0], getsockname=lambda: ENDS[1])
    assert addresses_of(None, raw) == ENDS


def test_what_nobody_shows_is_unknown() -> None:
    """A WSGI server other than gunicorn has no socket in its environ."""
    assert addresses_of(None, None) == (None, None)


def test_a_client_that_has_reset_is_gone() -> None:
    """The kernel has forgotten the other end then (ENOTCONN)."""

    def getpeername() -> Any:
        raise OSError(107, "not connected")

    with pytest.raises(ClientGone):
        addresses_of(None, SimpleNamespace(getpeername=getpeername))
