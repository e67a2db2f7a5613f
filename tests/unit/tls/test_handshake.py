"""Our side of a handshake: the rest of it is in tests/unit/worker/test_accept.py, with both sides."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from app.tls.handshake import NoCommonProtocol, ServerSide
from tests.unit.wire.test_client_hello import hello


@pytest.mark.parametrize(
    ("offered", "is_refused"),
    [
        ([], False),
        (["h2", "http/1.1"], False),  # as where it is only asked for another key share first
        (["spdy/1", "http/1.1"], False),
        (["spdy/1"], True),
        (["h2"], True),
    ],
)
def test_only_who_offers_nothing_of_ours_is_refused(offered: list[str], is_refused: bool) -> None:
    """Who speaks of no protocol at all speaks HTTP/1.1."""
    certificates: Any = None
    side = ServerSide(certificates, None, ("http/1.1", "http/1.0"))
    tls: Any = SimpleNamespace(selected_alpn_protocol=lambda: None)
    if is_refused:
        with pytest.raises(NoCommonProtocol):
            side.check_protocol(tls, hello(offered))
    else:
        side.check_protocol(tls, hello(offered))
