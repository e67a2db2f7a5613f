"""The body of an answer to a check: how much of it is read, and how long it is searched.

Runs in the control process, under gevent. A user's regular expression may need exponential time, and while
one searches nothing else runs in the process: a timer of CPU time ends the search. Must never know what it
means that something is found.
"""

from __future__ import annotations

import re
import signal
from functools import lru_cache
from typing import Any

from app.wire.chunked import AnswerDecoder, ChunkedError
from app.wire.response import CHUNKED, UNTIL_CLOSE

BODY_LIMIT = 64 * 1024  # HAProxy takes 16 KiB of an answer, nginx 256 KiB
# Of CPU. Sensible expressions take well under 1 ms for BODY_LIMIT.
SEARCH_SECONDS = 0.05


class BadBody(Exception):
    """The body cannot be read."""


class SearchTooSlow(Exception):
    """The expression takes too long on this text."""


def read_body(connection: Any, length: int, data: bytes) -> str:
    """The body behind a head, ``data`` of it being here already: at most BODY_LIMIT bytes, as text.

    ``length`` is the head's (app.wire.response): a size in bytes, CHUNKED or UNTIL_CLOSE. Raises BadBody, and
    ConnectionResetError where the connection ends before the body does.
    """
    decoder = AnswerDecoder() if length == CHUNKED else None
    wanted = BODY_LIMIT if length < 0 else min(length, BODY_LIMIT)
    body = b""
    while True:
        try:
            body += decoder.feed(data) if decoder is not None else data
        except ChunkedError as error:
            raise BadBody(str(error)) from None
        if len(body) >= wanted or (decoder is not None and decoder.done):
            return body[:wanted].decode("utf-8", "replace")
        data = connection.recv(wanted - len(body))
        if not data:
            if length != UNTIL_CLOSE:
                raise ConnectionResetError("closed before the end of the body")
            return body.decode("utf-8", "replace")


def is_found(expression: str, text: str) -> bool:
    """Whether the expression is found in the text. Raises SearchTooSlow. In the main thread only."""
    pattern = _compiled(expression)
    before = signal.signal(signal.SIGVTALRM, _give_up)
    # The engine of re looks for signals every few thousand steps.
    signal.setitimer(signal.ITIMER_VIRTUAL, SEARCH_SECONDS)
    try:
        return pattern.search(text) is not None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _give_up(*_: object) -> None:
    """What SIGVTALRM does while an expression searches."""
    raise SearchTooSlow("the expression takes too long on this body")


@lru_cache(maxsize=8)
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression)
