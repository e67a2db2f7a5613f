"""The configuration as a value."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from app.config import (
    parse,
)


def test_a_configuration_cannot_be_changed() -> None:
    """Config is frozen: whoever wants another builds another."""
    with pytest.raises(FrozenInstanceError):
        parse("{}").port = 1  # type: ignore[misc]
