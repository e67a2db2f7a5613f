"""How large a request body may be: ``limits.body``.

Owns the one check for all that see a body's size: the handler, which knows the length that the head says, and
the client's side (app.worker.client), which counts what comes of a body without one. Runs in workers. Pure.
"""

from __future__ import annotations

from app.errors import BadRequest


def check_size(size: int, limit: int) -> None:
    """Raise BadRequest (413) if ``size`` bytes of a body are over ``limit``, 0 for none."""
    if 0 < limit < size:
        raise BadRequest("body over limits.body", status=413, reason="body_too_large")
