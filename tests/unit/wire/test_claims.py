"""Which fields nobody but a trusted proxy may send."""

from __future__ import annotations

import pytest

from app.wire import claims


@pytest.mark.parametrize(
    ("names", "name", "is_claim"),
    [
        (claims.DEFAULT, b"remote-user", True),
        (claims.DEFAULT, b"remote-users", False),
        (claims.DEFAULT, b"x-ssl-client-s-dn", True),
        (claims.DEFAULT, b"x-ssl", False),
        (claims.DEFAULT, b"true-client-ip", True),
        (claims.DEFAULT, b"user-agent", False),
        (("X-Team*",), b"x-team", True),
        (("X.Team",), b"x-team", False),
        ((), b"remote-user", False),
        ((), b"", False),
    ],
)
def test_a_name_or_how_names_begin(names: tuple[str, ...], name: bytes, is_claim: bool) -> None:
    """In any spelling of the list."""
    assert (claims.pattern(names).fullmatch(name) is not None) == is_claim
