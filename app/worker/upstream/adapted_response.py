"""Answers of adapters that users mount, with the face of ``UpstreamResponse``.

Owns reading a plain ``requests.Response`` as strictly as one of our own: its head goes through the same
reader, its body is held against the length it announced. And letting go of it once that has been read: who
reads an answer here closes none that is complete. Runs in workers; never sends, retries or picks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import requests

from app.errors import Aborted, BadResponse
from app.wire.response import ResponseHead, read_head
from app.worker.net.stream import BODY_READ_SIZE
from app.worker.upstream.request import UpstreamRequest
from app.worker.upstream.response import UpstreamResponse


class AdaptedResponse:
    """A plain ``requests.Response`` of a mounted adapter, with the face of UpstreamResponse."""

    def __init__(self, response: requests.Response, head: ResponseHead, method: bytes) -> None:
        self.head = head
        self.first = b""
        self.complete = False
        self.upload = None
        self.splices = False
        self.trailers: list[tuple[bytes, bytes]] = []
        self.first_byte_at = monotonic()
        self._response = response
        self._left = head.length
        raw = response.raw
        if hasattr(raw, "stream"):  # urllib3: as it came, not decoded
            self._pieces: Iterator[bytes] = raw.stream(BODY_READ_SIZE, decode_content=False)
        else:
            self._pieces = response.iter_content(BODY_READ_SIZE)
        if method == b"HEAD" or head.length == 0:
            self._finish()

    def read(self) -> bytes:
        """As UpstreamResponse.read."""
        try:
            while self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                if piece:
                    if 0 < self._left < len(piece):  # what lies behind a body is nobody's
                        piece = piece[: self._left]
                    self._left -= len(piece)
                    return piece
        except Exception as error:  # whatever a foreign adapter raises: the body cannot be finished
            self.close()
            raise Aborted(str(error), reason="reset_in_body") from error
        if self._left > 0:
            raise Aborted(f"body ended {self._left} bytes early", reason="truncated")
        self._finish()
        return b""

    def close(self) -> None:
        """As UpstreamResponse.close."""
        self._response.close()

    def _finish(self) -> None:
        """Give back what the adapter holds for an answer that has all come.

        urllib3 keeps a connection whose end was read, and ends one that is closed before. Whatever is raised,
        or lies behind the body, changes nothing: the answer is whole.
        """
        self.complete = True
        with suppress(Exception):
            next(self._pieces, None)
        with suppress(Exception):
            self._response.close()


def adapted(response: Any, request: UpstreamRequest) -> Any:
    """What an adapter has returned, with the face of UpstreamResponse. Raises BadResponse."""
    if isinstance(response, UpstreamResponse):
        return response
    try:
        head = _head_of(response, request.raw_method)
    except BaseException:
        with suppress(Exception):
            response.close()
        raise
    return AdaptedResponse(response, head, request.raw_method)


def _head_of(response: Any, method: bytes) -> ResponseHead:
    """Its head, as our own reader reads one. Raises BadResponse."""
    source = getattr(response.raw, "headers", None) or response.headers
    items = source.iteritems() if hasattr(source, "iteritems") else source.items()
    block = b"".join(
        b"%b: %b\r\n" % (str(name).encode("latin-1"), str(value).encode("latin-1"))
        for name, value in items
        # What such an adapter read was de-chunked already.
        if str(name).lower() != "transfer-encoding"
    )
    phrase = (response.reason or "").encode("latin-1")
    data = b"HTTP/1.1 %d %b\r\n%b\r\n" % (response.status_code, phrase, block)
    head = read_head(data, method)
    if head is None or head.status < 200:
        raise BadResponse("an adapter returned no final head that can be read")
    return head
