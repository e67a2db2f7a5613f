"""app.worker.proxy.body_limit: how large a request body may be."""

from __future__ import annotations

import pytest

from app.errors import BadRequest
from app.worker.proxy.body_limit import check_size


@pytest.mark.parametrize(("size", "limit"), [(0, 0), (10**12, 0), (1000, 1000), (0, 1)])
def test_what_is_within_the_limit_passes(size: int, limit: int) -> None:
    """0 is no limit; a body that is just as large passes."""
    check_size(size, limit)


def test_a_byte_over_it_is_refused() -> None:
    """413, by a reason of its own."""
    with pytest.raises(BadRequest) as caught:
        check_size(1001, 1000)
    assert (caught.value.status, caught.value.reason) == (413, "body_too_large")
