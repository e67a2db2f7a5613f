"""The application with requests' own adapter mounted for its servers, in moods, for gunicorn to load."""

from __future__ import annotations

import io
from typing import Any

import requests
from requests.adapters import HTTPAdapter

import app

application = app.application

SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Moody(HTTPAdapter):
    """Does by the target what adapters do that were written in a hurry."""

    def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        """As HTTPAdapter.send, but for some targets."""
        if request.url.endswith("/raise"):
            raise ValueError("in a bad mood")
        response = super().send(request, **options)
        if request.url.endswith("/raise-in-body"):
            response.raw = Tired()
        elif request.url.endswith("/too-long"):
            response.raw = io.BytesIO(b"o" * int(response.headers["Content-Length"]) + SECOND)
        elif request.url.endswith("/no-text"):
            response.raw = io.BytesIO()
            response.headers["X-Snow"] = "☃"
        return response


class Tired(io.RawIOBase):
    """A body that fails behind its first byte."""

    _is_tired = False

    def read(self, size: int = -1) -> bytes:
        """One byte, once."""
        if self._is_tired:
            raise RuntimeError("tired")
        self._is_tired = True
        return b"o"


application.session.mount("http://", Moody())
